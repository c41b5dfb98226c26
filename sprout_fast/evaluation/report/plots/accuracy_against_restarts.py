"""Accuracy under PGD as a function of random restarts (Table 9)."""

from __future__ import annotations

from sprout_fast.evaluation.protocols import PAPER_EPS, PAPER_RESTARTS
from sprout_fast.evaluation.report.comparison import dataset_like
from sprout_fast.evaluation.report.plots.base import (
    OURS,
    Drawing,
    accuracy_axis,
    accuracy_line,
    attacks_of,
    cifar10_only_note,
    legend_below,
    new_axes,
    option,
    paper_points,
    register,
    series,
)
from sprout_fast.evaluation.results import Results
from sprout_fast.paper import CIFAR10, WRN, published


@register(
    place=4,
    title="Accuracy against restarts",
    caption=f"Accuracy under PGD-20 (l-inf, eps {PAPER_EPS}) with several random starts. An image "
    "counts as correctly classified only if it is for every start. A steep curve indicates a "
    "rugged loss surface.",
    paper="Hollow markers: the paper's Table 9, Wide ResNet, 1 to 10 starts.",
)
def accuracy_against_restarts(results: Results) -> Drawing | None:
    names = [f"{count}x PGD-20 at {PAPER_EPS:g}" for count in PAPER_RESTARTS[1:]]
    records = attacks_of(results, "pgd", [f"PGD-20 at {PAPER_EPS:g}", *names])
    if len(records) < 2:
        return None
    figure, axes = new_axes()
    starts = [option(record, "restarts") for record in records]
    accuracies = [record.accuracy for record in records]
    accuracy_line(axes, starts, accuracies, "this model", **OURS)
    if dataset_like(results) == CIFAR10:
        for method, values in published(9, WRN).rows.items():
            paper_points(axes, method, PAPER_RESTARTS, values)
    accuracy_axis(axes)
    axes.set_xticks(range(1, max(*PAPER_RESTARTS, *starts) + 1))
    axes.set_xlabel("random starts")
    legend_below(figure)
    return Drawing(
        figure, f"Line: {series(starts, accuracies)} starts.", cifar10_only_note(results)
    )
