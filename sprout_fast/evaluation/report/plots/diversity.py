"""Diversity of the gradients of SPROUT's modules (Table 11)."""

from __future__ import annotations

from sprout_fast.evaluation.report.comparison import measured
from sprout_fast.evaluation.report.plots.base import (
    METHODS,
    OURS,
    Drawing,
    legend_below,
    new_axes,
    register,
)
from sprout_fast.evaluation.results import Results
from sprout_fast.paper import TABLES


@register(
    place=9,
    title="Diversity of SPROUT's modules",
    caption="Mean cosine similarity of the input gradients under two of the modules, with 95 % "
    "intervals. Values near 0 mean that the modules regularize in different directions.",
    paper="Hollow markers: the paper's Table 11.",
)
def diversity(results: Results) -> Drawing | None:
    (table,) = (one for one in TABLES if one.table == 11)
    found = {name: measured(results, source) for name, source in table.columns.items()}
    found = {name: one for name, one in found.items() if one is not None}
    if len(found) < len(table.columns):
        return None
    figure, axes = new_axes(2.6)
    places = range(len(found))
    values = [one.value for one in found.values()]
    below = [one.value - one.interval[0] for one in found.values()]
    above = [one.interval[1] - one.value for one in found.values()]
    axes.axvline(0, color="black", linewidth=0.8)
    axes.errorbar(
        values, places, xerr=(below, above), label="this model", linestyle="none", capsize=2, **OURS
    )
    axes.plot(
        table.rows["sprout"],
        [place + 0.2 for place in places],
        label="paper: SPROUT",
        linestyle="none",
        markerfacecolor="white",
        **METHODS["sprout"],
    )
    axes.set_yticks(places, list(found))
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel("cosine similarity")
    legend_below(figure)
    points = ", ".join(f"{name} {value:.4f}" for name, value in zip(found, values, strict=True))
    return Drawing(figure, f"Points: {points}.")
