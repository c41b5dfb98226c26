"""What an evaluation shows, and what it cannot show."""

from __future__ import annotations

from typing import NamedTuple

from sprout_fast.evaluation.measurements import AttackMeasurement
from sprout_fast.evaluation.protocols import Setting, strong
from sprout_fast.evaluation.recorder import Record
from sprout_fast.evaluation.results import Results

#: AutoAttack's attacks: display name by key in ATTACKS.
AUTOATTACK = {
    one.attack: one.name for one in strong(Setting()) if isinstance(one, AttackMeasurement)
}


class Verdict(NamedTuple):
    """The statements at the top of the report. The ball is that of the evaluation."""

    strongest: Record | None  # the attack with most errors within the ball, if any found one
    errors: int  # its errors, on images that are classified correctly without an attack
    # Attacks that ran only on samples still correctly classified. Run on all images, they might
    # find more errors than the strongest.
    cascaded: list[str]
    missing: list[str]  # AutoAttack's attacks that were not run in the ball
    weak: bool  # whether all of them are missing
    in_ball: int  # number of attacks that were run in the ball


def verdict_of(results: Results) -> Verdict:
    """Return the statements that the results support."""
    correct = ~results.clean_record.misclassified
    errors = {
        name: int((results.misclassified_within(record) & correct).sum())
        for name, record in results.attacks.items()
    }
    strongest, most = max(errors.items(), key=lambda one: one[1], default=("", 0))
    in_ball = [
        record.parameters["attack"]
        for record in results.attacks.values()
        if record.parameters["norm"] == results.norm
        and abs(record.parameters["eps"] - results.eps) <= 1e-6 * results.eps
    ]
    missing = [name for key, name in AUTOATTACK.items() if not {key, "autoattack"} & {*in_ball}]
    return Verdict(
        strongest=results.attacks[strongest] if most > 0 else None,
        errors=most,
        cascaded=[name for name, one in results.attacks.items() if one.parameters["cascade"]],
        missing=missing,
        weak=len(missing) == len(AUTOATTACK),
        in_ball=len(in_ball),
    )
