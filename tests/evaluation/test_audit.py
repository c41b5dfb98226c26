"""Each check of the audit, on records that it must pass and on records that it must fail."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers.records import EPS, record
from torch import Tensor, nn

from sprout_fast.evaluation.audit import CHECKS, Check, run_audit
from sprout_fast.evaluation.measurements.attack import AttackMeasurement
from sprout_fast.evaluation.names import NormName
from sprout_fast.evaluation.protocols import PROTOCOLS, Setting
from sprout_fast.evaluation.recorder import Record
from sprout_fast.evaluation.subject import Subject

TOTAL = 100
# The first images misclassified under each attack of the audit, of an unmasked model.
ERRORS = {
    "noise": 5,
    "one step": 20,
    "PGD-20": 40,
    "PGD-200": 42,
    "10x PGD-20": 43,
    "PGD-20 margin": 44,
    "PGD-20 rescaled": 40,
    "PGD-20 at 0.25 eps": 10,
    "PGD-20 at 0.5 eps": 20,
    "PGD-20 at 2 eps": 80,
    "PGD-20 at 4 eps": 95,
    "PGD-200 at the largest eps": 100,
    "APGD-CE": 43,
    "APGD-T": 45,
    "FAB-T": 44,
    "Square": 30,
    "transfer": 20,
}
COLUMNS: dict[str, dict[str, float]] = {
    "clean": {"margin": 2, "sum": 0, "smallest": -1, "confidence": 0.8, "change": 0},
    "gradients": {
        **{"ce_zero": 0.1, "margin_zero": 0.1, "ce_norm": 1, "margin_norm": 1, "slope": 1},
        "rise": 1,
    },
    "stability": {
        **{"repeated": 0, "repeated_attacked": 0, "wrong_passes": 1, "gradient": 0, "alone": 0},
        **{"permuted": 0, "nearby": 0, "backward_passes": 0, "rewritten": 0},
    },
}


def audit(
    errors: dict[str, Any] | None = None,
    columns: dict[str, dict[str, float | Tensor]] | None = None,
    without: str | None = None,
    **subject: Any,
) -> dict[str, Check]:
    """Return the checks of an unmasked model by name, with changes.

    Args:
        errors: by attack, how many of the first images it misclassifies, or which ones.
        columns: by record and column, the value for all images, or one per image.
        without: a record that is missing.
    """
    records: dict[str, Record] = {"clean": record("clean", range(2), TOTAL)}
    for name, found in (ERRORS | (errors or {})).items():
        wrong = range(found) if isinstance(found, int) else found
        full = name if name == "FAB-T" else f"audit: {name}"
        cascade = ("APGD-CE", "APGD-T") if name == "FAB-T" else ()
        records[full] = record(full, wrong, TOTAL, cascade=cascade)
    for name, values in COLUMNS.items():
        changed = values | (columns or {}).get(name, {})
        kept = records.setdefault(name, Record(name, {}, TOTAL, torch.arange(TOTAL)))
        kept.columns |= {
            key: torch.as_tensor(value, dtype=torch.float64).expand(TOTAL).clone()
            for key, value in changed.items()
        }
    records = {n: r for n, r in records.items() if n.removeprefix("audit: ") != without}
    given = Subject(nn.Identity(), "none", 10, beta=torch.full((10,), 0.5), **subject)
    return {check.name: check for check in run_audit(given, records, "all").checks}


def first(count: int, value: float, rest: float) -> Tensor:
    """Return one value for the first ``count`` images and another for the rest."""
    return torch.where(torch.arange(TOTAL) < count, value, rest)


# By check: changes that it must tolerate, and changes that it must fail.
LIMITS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "iterative beats one step": (
        [{"errors": {"one step": 41}}],
        [{"errors": {"one step": 42}}, {"errors": {"one step": 90}}],
    ),
    "more steps help little": (
        [{"errors": {"PGD-200": 45}}, {"errors": {"PGD-200": 30}}],
        [{"errors": {"PGD-200": 46}}, {"errors": {"PGD-20": 30}}],
    ),
    "more restarts help little": (
        [{"errors": {"10x PGD-20": 45}}],
        [{"errors": {"10x PGD-20": 46}}, {"errors": {"10x PGD-20": 99}}],
    ),
    "accuracy decreases with eps": (
        [{"errors": {"PGD-20 at 4 eps": 79}}, {"errors": {"PGD-20 at 0.25 eps": 2}}],
        [
            {"errors": {"PGD-20 at 4 eps": 78}},
            {"errors": {"PGD-20 at 0.25 eps": 60}},
            {"errors": {n: 2 for n in ERRORS if n.startswith("PGD-20")}},
        ],
    ),
    "accuracy reaches zero": (
        [{"errors": {"PGD-200 at the largest eps": 99}}],
        [{"errors": {"PGD-200 at the largest eps": 98}}],
    ),
    "black box never wins": (
        [{"errors": {"Square": 46}}, {"errors": {"Square": range(40)}}],
        [{"errors": {"Square": 47}}, {"errors": {"Square": range(50, 60)}}],
    ),
    "smallest perturbation never wins": (
        [{"errors": {"FAB-T": 46}}],
        [{"errors": {"FAB-T": 47}}, {"errors": {"FAB-T": range(45, 50)}}],
    ),
    "transfer never wins": (
        [{"errors": {"transfer": 46}}],
        [{"errors": {"transfer": 47}}, {"errors": {"transfer": range(60, 70)}}],
    ),
    "noise never wins": (
        [{"errors": {"noise": 46}}],
        [{"errors": {"noise": 47}}, {"errors": {"noise": range(90, 93)}}],
    ),
    "rescaling changes nothing": (
        [
            {"columns": {"clean": {"margin": 50}}, "errors": {"PGD-20 margin": 45}},
            {"errors": {"PGD-20 rescaled": 90}},
        ],
        [
            {"columns": {"clean": {"margin": 50}}, "errors": {"PGD-20 rescaled": 46}},
            {"columns": {"clean": {"margin": 17}}, "errors": {"PGD-20 margin": 46}},
        ],
    ),
    "logits are not saturated": (
        [
            {"columns": {"clean": {"margin": 50}}, "errors": {"APGD-T": 48}},
            {"columns": {"clean": {"margin": 16}}, "errors": {"APGD-T": 90}},
        ],
        [{"columns": {"clean": {"margin": 17}}, "errors": {"APGD-T": 49}}],
    ),
    "gradients are nonzero": (
        [{"columns": {"gradients": {"ce_zero": first(1, 1, 0)}}}],
        [
            {"columns": {"gradients": {"ce_zero": first(2, 0.6, 0)}}},
            {"columns": {"gradients": {"margin_zero": first(50, 1, 0)}}},
        ],
    ),
    "loss follows the gradient": (
        [
            {"columns": {"gradients": {"slope": first(10, 3, 1)}}},
            {"columns": {"gradients": {"slope": 0.6}}},
        ],
        [
            {"columns": {"gradients": {"slope": first(11, 2.1, 1)}}},
            {"columns": {"gradients": {"slope": first(11, 0.4, 1)}}},
            {"columns": {"gradients": {"rise": first(11, 0, 1)}}},
        ],
    ),
    "gradients are deterministic": (
        [{"columns": {"stability": {"gradient": 0.04}}}],
        [{"columns": {"stability": {"gradient": first(1, 0.06, 0)}}}],
    ),
    "outputs are deterministic": (
        [
            {"columns": {"clean": {"change": 1e-3}}},
            {"columns": {"clean": {"change": first(1, 1, 0)}}},
        ],
        [
            {"columns": {"clean": {"change": first(2, 3e-3, 0)}}},
            {"columns": {"stability": {"repeated": first(1, 2e-3, 0)}}},
            {"columns": {"stability": {"repeated_attacked": first(1, 2e-3, 0)}}},
        ],
    ),
    "images do not interact": (
        [{"columns": {"stability": {"alone": 0.04, "permuted": 0.04}}}],
        [
            {"columns": {"stability": {"alone": first(1, 0.06, 0)}}},
            {"columns": {"stability": {"permuted": first(1, 0.06, 0)}}},
        ],
    ),
    "outputs are continuous": (
        [{"columns": {"stability": {"nearby": 0.04}}}],
        [{"columns": {"stability": {"nearby": first(1, 0.06, 0)}}}],
    ),
    "nothing is optimized at test time": (
        [{}],
        [
            {"columns": {"stability": {"backward_passes": 1}}},
            {"columns": {"stability": {"rewritten": 1}}},
        ],
    ),
    "outputs are logits": (
        [
            {"columns": {"clean": {"sum": 1, "smallest": -0.1}}},
            {"columns": {"clean": {"sum": first(50, 5, 1), "smallest": first(90, -1, 0)}}},
        ],
        [
            {"columns": {"clean": {"sum": 1, "smallest": 0}}},
            {"columns": {"clean": {"sum": 100, "smallest": first(80, -1, 0)}}},
        ],
    ),
    "logits are not flat": (
        [{"columns": {"clean": {"confidence": 0.19}}}],
        [{"columns": {"clean": {"confidence": 0.18}}}, {"columns": {"clean": {"confidence": 0.1}}}],
    ),
    "targeted and untargeted agree": (
        [
            {"errors": {"APGD-T": 49}},
            {"errors": {"APGD-T": 60, "APGD-CE": 44}},
        ],
        [
            {"errors": {"APGD-T": 80}},
            {"errors": {"APGD-CE": 80, "APGD-T": 30}},
            {"errors": {"APGD-T": range(50, 90)}},
        ],
    ),
    "labels keep the true class": ([{"alpha": 0.1}], [{"alpha": 0.9}]),
}


def test_an_unmasked_model_passes_every_check() -> None:
    checks = audit()
    assert set(checks) == set(CHECKS) == set(LIMITS)
    assert {name: check.reason for name, check in checks.items() if check.status != "pass"} == {}


@pytest.mark.parametrize("name", LIMITS)
def test_a_check_fails_beyond_its_tolerance_and_not_before(name: str) -> None:
    tolerated, refused = LIMITS[name]
    for change in tolerated:
        assert audit(**change)[name].status == "pass", change
    for change in refused:
        check = audit(**change)[name]
        assert check.status == "fail", change
        assert 0 < check.affected <= 1 and check.reason and check.question.endswith("?")
        assert all(math.isfinite(number) for number in check.numbers.values())


def test_affected_is_the_share_of_errors_that_were_missed() -> None:
    # 45 errors by gradients, 2 of them without an attack, and 5 by Square alone.
    check = audit({"Square": range(45, 50)})["black box never wins"]
    assert check.affected == pytest.approx(5 / 48)
    # From 60 to 50 correctly classified images.
    assert audit({"PGD-200": 50})["more steps help little"].affected == pytest.approx(10 / 60)


@pytest.mark.parametrize(("norm", "order"), [("linf", math.inf), ("l2", 2), ("l1", 1)])
def test_the_largest_eps_reaches_a_gray_image_from_any(norm: NormName, order: float) -> None:
    measured = PROTOCOLS["audit"](Setting(norm, 0.01, image_size=4))
    (attack,) = (one for one in measured if one.name == "audit: PGD-200 at the largest eps")
    assert isinstance(attack, AttackMeasurement) and attack.norm == norm
    to_gray = torch.full((3 * 4 * 4,), 0.5, dtype=torch.float64)  # from black or white
    assert attack.eps == pytest.approx(torch.linalg.vector_norm(to_gray, order).item())


def test_every_attack_of_the_audit_is_one_that_a_check_reads() -> None:
    attacks = [m for m in PROTOCOLS["audit"](Setting(eps=EPS)) if isinstance(m, AttackMeasurement)]
    assert {m.name.removeprefix("audit: ") for m in attacks} == set(ERRORS) - {"FAB-T"}


def test_what_finds_more_than_gradients_needs_an_attack_by_gradients() -> None:
    checks = audit(without="APGD-CE")
    for name in ("black box never wins", "smallest perturbation never wins", "noise never wins"):
        assert checks[name].status == "not run" and "APGD-CE" in checks[name].reason


@pytest.mark.parametrize("missing", [*ERRORS, "gradients", "stability"])
def test_checks_whose_records_are_missing_are_not_run(missing: str) -> None:
    checks = audit(without=missing)
    statuses = [check.status for check in checks.values()]
    assert "not run" in statuses and "fail" not in statuses
    for check in checks.values():
        if check.status == "not run":
            assert missing in check.reason and check.affected == 0
