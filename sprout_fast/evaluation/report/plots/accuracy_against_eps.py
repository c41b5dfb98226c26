"""Accuracy as a function of eps."""

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
    "PGD-20, step size eps/5": (
        [f"PGD-20 at {eps:g}" for eps in (PAPER_EPS, *PAPER_EPS_CURVE)],
        OURS,
    ),
    "PGD-20, step size eps/4": ([f"audit: {name}" for name in _AUDIT], ALSO_OURS),
    "PGD-20, random target": (
        [f"random-target PGD-20 at {eps:g}" for eps in IMAGENET_EPS],
        {"color": "#000000", "marker": "d"},
    ),
}


@register(
    place=2,
    title="Accuracy against eps",
    caption="Accuracy should decrease with eps and reach 0 for large eps. A curve that levels off "
    "above 0 indicates a failing attack, not a robust model. The star is the robust accuracy, over "
    "all attacks, at the eps of this evaluation.",
    paper="Hollow markers: the paper's PGD-20 at eps 0.03 (Table 2); for ImageNet, its PGD-20 "
    "toward a random target class at four eps (Tables 4 and 10).",
)
def accuracy_against_eps(results: Results) -> Drawing | None:
    figure, axes = new_axes(4.0)
    described = []
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
        described.append(f"{label}: {series(eps, accuracies)}")
    if not described:
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
        note = "The paper reports this for l-inf only."
    accuracy_axis(axes)
    axes.set_xlim(left=0)
    axes.set_xlabel(eps_label(results.norm))
    legend_below(figure)
    alt = f"Lines. {'; '.join(described)}. All attacks: {results.robust}."
    return Drawing(figure, alt, note)


def _draw_paper(axes: Axes, results: Results) -> None:
    network = network_like(results)
    if dataset_like(results) == IMAGENET:
        table = published(4 if network == "ResNet-152" else 10, network)
        for method, values in table.rows.items():
            paper_points(axes, method, (0.0, *IMAGENET_EPS), values)
    else:
        for method, value in published(2, network).column("PGD-20").items():
            paper_points(axes, method, [PAPER_EPS], [value])
