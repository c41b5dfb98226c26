"""Means with their intervals: accuracy under transformations (Table 5), diversity (Table 11)."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes

from sprout_fast.evaluation.report.comparison import Measured, dataset_like, measured
from sprout_fast.evaluation.report.plots import base
from sprout_fast.evaluation.results import Results
from sprout_fast.paper import CIFAR10, TABLES, WRN, PublishedTable, published


@base.register(
    place=6,
    title="Invariance",
    caption="Accuracy on images rotated by 10°, with 1.5 times the brightness, with twice the "
    "contrast, and in gray, with 95 % intervals. The vertical line is the clean accuracy.",
    paper="Hollow markers: the paper's Table 5, Wide ResNet.",
)
def invariance(results: Results) -> base.Drawing | None:
    table = published(5, WRN)
    found = _measured_columns(results, table)
    if not found:
        return None
    figure, axes = base.new_axes(3.2)
    clean = 100 * results.clean_accuracy
    axes.axvline(clean, color=base.OURS["color"], linewidth=0.8, alpha=0.6)
    _draw_points(axes, found, 100)
    if dataset_like(results) == CIFAR10:
        for shift, method in enumerate(base.METHODS, start=1):
            if method in table.rows:
                values = [table.column(name)[method] for name in found]
                places = [place + 0.11 * shift for place in range(len(found))]
                base.paper_points(axes, method, values, places, linestyle="none")
    axes.set_ylim(len(found) - 0.25, -0.35)
    axes.set_xlim(0, 103)
    axes.set_xlabel("accuracy (%)")
    base.legend_below(figure)
    points = ", ".join(f"{name} {100 * one.value:.1f} %" for name, one in found.items())
    alt = f"Points: {points}; clean {clean:.1f} %."
    return base.Drawing(figure, alt, base.cifar10_only_note(results))


@base.register(
    place=9,
    title="Diversity of SPROUT's modules",
    caption="Mean cosine similarity of the input gradients under two of the modules, with 95 % "
    "intervals. Values near 0 mean that the modules regularize in different directions.",
    paper="Hollow markers: the paper's Table 11.",
)
def diversity(results: Results) -> base.Drawing | None:
    (table,) = (one for one in TABLES if one.table == 11)
    found = _measured_columns(results, table)
    if len(found) < len(table.columns):
        return None
    figure, axes = base.new_axes(2.6)
    axes.axvline(0, color="black", linewidth=0.8)
    _draw_points(axes, found)
    places = [place + 0.2 for place in range(len(found))]
    base.paper_points(axes, "sprout", table.rows["sprout"], places, linestyle="none")
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel("cosine similarity")
    base.legend_below(figure)
    points = ", ".join(f"{name} {one.value:.4f}" for name, one in found.items())
    return base.Drawing(figure, f"Points: {points}.")


def _measured_columns(results: Results, table: PublishedTable) -> dict[str, Measured]:
    found = {name: measured(results, source) for name, source in table.columns.items()}
    return {name: one for name, one in found.items() if one is not None}


def _draw_points(axes: Axes, found: Mapping[str, Measured], factor: float = 1) -> None:
    values = [factor * one.value for one in found.values()]
    below = [factor * (one.value - one.interval[0]) for one in found.values()]
    above = [factor * (one.interval[1] - one.value) for one in found.values()]
    style = {"label": "this model", "linestyle": "none", "capsize": 2, **base.OURS}
    axes.errorbar(values, range(len(found)), xerr=(below, above), **style)
    axes.set_yticks(range(len(found)), list(found))
