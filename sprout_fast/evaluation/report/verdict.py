"""What the numbers say, and what they cannot say."""

from __future__ import annotations

from dataclasses import dataclass

from sprout_fast.evaluation.measurements import AttackMeasurement
from sprout_fast.evaluation.protocols import Setting, strong
from sprout_fast.evaluation.recorder import Record
from sprout_fast.evaluation.results import Results

#: AutoAttack's attacks: key in ATTACKS -> name.
AUTOATTACK = {
    one.attack: one.name for one in strong(Setting()) if isinstance(one, AttackMeasurement)
}


@dataclass(frozen=True)
class Verdict:
    """Of an evaluation.

    Args:
        doubtful: signs of gradient masking speak against a robust accuracy above 0.
        strongest: the attack that found most errors in the verdict's ball; None where none found
            any.
        felled: how many images that was, of those that the model gets right by itself.
        cascaded: names of the attacks that saw only what others had left: by themselves they may
            find more errors than the strongest.
        missing: names of AutoAttack's attacks that were not run in the verdict's ball.
        weak: none of them was.
        in_ball: how many attacks had the verdict's ball itself.
    """

    doubtful: bool
    strongest: Record | None
    felled: int
    cascaded: list[str]
    missing: list[str]
    weak: bool
    in_ball: int


def verdict_of(results: Results) -> Verdict:
    """What is to be said of the results' headline."""
    right = ~results.records["clean"].misclassified
    felled = {
        name: int((results.misclassified_within(record) & right).sum())
        for name, record in results.attacks.items()
    }
    most = max(felled.values(), default=0)
    strongest = next((name for name, count in felled.items() if count == most > 0), None)
    run = [
        record.parameters["attack"]
        for record in results.attacks.values()
        if record.parameters["norm"] == results.norm
        and abs(record.parameters["eps"] - results.eps) <= 1e-6 * results.eps
    ]
    missing = [
        name for key, name in AUTOATTACK.items() if key not in run and "autoattack" not in run
    ]
    return Verdict(
        doubtful=bool(results.audit.failed) and results.robust.correct > 0,
        strongest=None if strongest is None else results.attacks[strongest],
        felled=most,
        cascaded=[name for name, one in results.attacks.items() if one.parameters["cascade"]],
        missing=missing,
        weak=len(missing) == len(AUTOATTACK),
        in_ball=len(run),
    )
