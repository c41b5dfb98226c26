"""Accuracy under transformations that preserve the class (Table 5)."""

from __future__ import annotations

from sprout_fast.evaluation.report.comparison import dataset_like, measured
from sprout_fast.evaluation.report.plots.base import (
    METHODS,
    OURS,
    Drawing,
    cifar10_only_note,
    legend_below,
    new_axes,
    register,
)
from sprout_fast.evaluation.results import Results
from sprout_fast.paper import CIFAR10, METHOD_NAMES, WRN, published


@register(
    place=6,
    title="Invariance",
    caption="Accuracy on images rotated by 10°, with 1.5 times the brightness, with twice the "
    "contrast, and in gray, with 95 % intervals. The vertical line is the clean accuracy.",
    paper="Hollow markers: the paper's Table 5, Wide ResNet.",
)
def invariance(results: Results) -> Drawing | None:
    table = published(5, WRN)
    found = {name: measured(results, source) for name, source in table.columns.items()}
    found = {name: one for name, one in found.items() if one is not None}
    if not found:
        return None
    figure, axes = new_axes(3.2)
    places = range(len(found))
    values = [100 * one.value for one in found.values()]
    below = [100 * (one.value - one.interval[0]) for one in found.values()]
    above = [100 * (one.interval[1] - one.value) for one in found.values()]
    axes.axvline(100 * results.clean_accuracy, color=OURS["color"], linewidth=0.8, alpha=0.6)
    axes.errorbar(
        values, places, xerr=(below, above), label="this model", linestyle="none", capsize=2, **OURS
    )
    if dataset_like(results) == CIFAR10:
        for shift, (method, style) in enumerate(METHODS.items(), start=1):
            if method in table.rows:
                axes.plot(
                    [table.column(name)[method] for name in found],
                    [place + 0.11 * shift for place in places],
                    label=f"paper: {METHOD_NAMES[method]}",
                    linestyle="none",
                    markerfacecolor="white",
                    **style,
                )
    axes.set_yticks(places, list(found))
    axes.set_ylim(len(found) - 0.25, -0.35)
    axes.set_xlim(0, 103)
    axes.set_xlabel("accuracy (%)")
    legend_below(figure)
    points = ", ".join(f"{name} {value:.1f} %" for name, value in zip(found, values, strict=True))
    return Drawing(
        figure,
        f"Points: {points}; clean {100 * results.clean_accuracy:.1f} %.",
        cifar10_only_note(results),
    )
