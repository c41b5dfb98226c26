"""Accuracy under PGD as a function of steps (Fig. 7a)."""

from __future__ import annotations

from sprout_fast.evaluation.protocols import PAPER_EPS, PAPER_STEPS
from sprout_fast.evaluation.report.comparison import dataset_like, network_like
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
from sprout_fast.paper import CIFAR10, published

_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


@register(
    place=3,
    title="Accuracy against PGD steps",
    caption=f"Accuracy under PGD (l-inf, eps {PAPER_EPS}, step size eps/5, one random start). If "
    "the curve still decreases at the right, the attack has not converged.",
    paper="The paper's Fig. 7a has 10 to 500 steps. Hollow markers: its Table 2, at 20, 100 and "
    "200 steps.",
)
def accuracy_against_steps(results: Results) -> Drawing | None:
    records = attacks_of(results, "pgd", [f"PGD-{steps} at {PAPER_EPS:g}" for steps in PAPER_STEPS])
    if len(records) < 2:
        return None
    figure, axes = new_axes()
    steps = [option(record, "steps") for record in records]
    accuracies = [record.accuracy for record in records]
    accuracy_line(axes, steps, accuracies, "this model", **OURS)
    if dataset_like(results) == CIFAR10:
        table = published(2, network_like(results))
        for method in table.rows:
            values = [table.column(f"PGD-{count}")[method] for count in (20, 100, 200)]
            paper_points(axes, method, (20, 100, 200), values)
    accuracy_axis(axes)
    axes.set_xscale("log")
    ticks = [tick for tick in _TICKS if min(steps) / 2 < tick]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("steps (log scale)")
    legend_below(figure)
    return Drawing(figure, f"Line: {series(steps, accuracies)} steps.", cifar10_only_note(results))
