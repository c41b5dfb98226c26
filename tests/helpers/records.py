"""Records of evaluations that were not run, by the images that each attack misclassifies."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from sprout_fast.evaluation.recorder import AccuracyRecord

EPS = 0.1


def record(
    name: str,
    wrong: Iterable[int],
    total: int,
    *,
    rows: Iterable[int] | None = None,
    distance: float = EPS,
    eps: float = EPS,
    cascade: tuple[str, ...] = (),
    before: Iterable[int] = (),
) -> AccuracyRecord:
    """Return the record of an attack in the l-inf ball, or of the clean images (``"clean"``).

    Args:
        wrong: images on which it succeeds.
        rows: the images that it attacked; default: all.
        distance: of each attacked image from the clean one.
        cascade: names of the attacks before it.
        before: images that were misclassified before it.
    """
    attacked = torch.tensor(sorted(range(total) if rows is None else rows), dtype=torch.int64)
    found = torch.isin(attacked, torch.tensor(sorted(wrong), dtype=torch.int64))
    misclassified = torch.zeros(total, dtype=torch.bool)
    misclassified[list(before)] = True
    misclassified[attacked[found]] = True
    columns = {"misclassified": found}
    kind = "Clean" if name == "clean" else "AttackMeasurement"
    if name != "clean":
        distances = torch.full((len(attacked),), distance, dtype=torch.float64)
        columns |= {"linf": distances, "l2": distances, "l1": distances}
    parameters = {"kind": kind, "name": name, "norm": "linf", "eps": eps, "cascade": cascade}
    return AccuracyRecord(name, parameters, total, attacked, columns, misclassified=misclassified)
