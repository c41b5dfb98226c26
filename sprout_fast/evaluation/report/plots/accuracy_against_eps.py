"""Accuracy as the ball grows."""

from __future__ import annotations

from matplotlib.axes import Axes

from sprout_fast.evaluation.protocols import EPS_FACTORS, IMAGENET_EPS, PAPER_EPS, PAPER_EPS_CURVE
from sprout_fast.evaluation.report.comparison import dataset_like, network_like
from sprout_fast.evaluation.report.plots.base import (
    ALSO_OURS,
    OURS,
    Drawing,
    accuracy_axis,
    accuracy_line,
    attacks_of,
    eps_label,
    errors,
    legend_below,
    new_axes,
    paper_points,
    register,
    series,
)
from sprout_fast.evaluation.results import Results
from sprout_fast.paper import IMAGENET, published

_AUDIT = ("PGD-20", *(f"PGD-20 at {factor:g} eps" for factor in EPS_FACTORS))
_CURVES = {
    "PGD-20, steps of eps/5": (
        [f"PGD-20 at {eps:g}" for eps in (PAPER_EPS, *PAPER_EPS_CURVE)],
        OURS,
    ),
    "PGD-20, steps of eps/4": ([f"audit: {name}" for name in _AUDIT], ALSO_OURS),
    "PGD-20, random class": (
        [f"random-target PGD-20 at {eps:g}" for eps in IMAGENET_EPS],
        {"color": "#000000", "marker": "d"},
    ),
}


@register(
    place=2,
    title="Accuracy against eps",
    caption="Accuracy as the perturbations grow, from none on. It has to fall, and to 0 where they "
    "are large: a curve that levels off above 0 shows an attack that is stuck, not a model that is "
    "robust. The star is the verdict: all attacks together, at the eps asked for.",
    paper="Hollow: the paper's PGD-20 at eps 0.03 (Table 2); of images over 64 pixels its PGD "
    "towards a random class at four eps (Tables 4 and 10).",
)
def accuracy_against_eps(results: Results) -> Drawing | None:
    figure, axes = new_axes(4.0)
    said = []
    for label, (names, style) in _CURVES.items():
        records = [
            record
            for record in attacks_of(results, "pgd", names)
            if record.parameters["norm"] == results.norm
        ]
        if len(records) < 2:
            continue
        eps = [0.0, *(record.parameters["eps"] for record in records)]
        accuracies = [results.clean, *(record.accuracy for record in records)]
        accuracy_line(axes, eps, accuracies, label, **style)
        said.append(f"{label}: {series(eps, accuracies)}")
    if not said:
        return None
    low, high = errors(results.robust)
    axes.errorbar(
        [results.eps],
        [100 * results.robust_accuracy],
        ([low], [high]),
        label="all attacks",
        color="black",
        marker="*",
        markersize=10,
        linestyle="none",
        capsize=2,
    )
    note = ""
    if results.norm == "linf":
        _draw_paper(axes, results)
    else:
        note = "In other norms than l-inf the paper has no such numbers."
    accuracy_axis(axes)
    axes.set_xlim(left=0)
    axes.set_xlabel(eps_label(results.norm))
    legend_below(figure)
    return Drawing(figure, f"Lines. {'; '.join(said)}. The verdict: {results.robust}.", note)


def _draw_paper(axes: Axes, results: Results) -> None:
    network = network_like(results)
    if dataset_like(results) == IMAGENET:
        table = published(4 if network == "ResNet-152" else 10, network)
        for method, values in table.rows.items():
            paper_points(axes, method, (0.0, *IMAGENET_EPS), values)
    else:
        for method, value in published(2, network).column("PGD-20").items():
            paper_points(axes, method, [PAPER_EPS], [value])
