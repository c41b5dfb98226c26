"""Robustness, invariance and speed in one radar chart (Fig. 1, Table 8)."""

from __future__ import annotations

import math

from matplotlib.projections.polar import PolarAxes

from sprout_fast.evaluation.report.comparison import dataset_like, measured
from sprout_fast.evaluation.report.plots import base
from sprout_fast.evaluation.results import Results
from sprout_fast.paper import CIFAR10, METHOD_NAMES, VGG, published

_NAMES = {
    "clean": "clean",
    "l-inf": "PGD-100\neps 0.03",
    "C&W l2": "C&W l2",
    "contrast x 2": "contrast",
    "seconds": "speed",
}


@base.register(
    place=5,
    title="Accuracy, robustness, invariance and speed",
    caption="Accuracy in % on clean images, under PGD-100 (l-inf, eps 0.03), under C&W (l2 up to "
    "0.05) and with twice the contrast. Speed is the time of natural training in % of the method's "
    "training time. Larger is better.",
    paper="Dashed: the paper's Fig. 1, redrawn from its Table 8 (VGG-16) with a common scale.",
)
def radar(results: Results) -> base.Drawing | None:
    table = published(8, VGG)
    ours = {name: measured(results, source) for name, source in table.columns.items()}
    axis_names = [name for name, one in ours.items() if one is not None]
    values = [100 * one.value for one in ours.values() if one is not None]
    note = "The axis for speed is left out since the training time is unknown."
    if results.subject.time_over_natural is not None:
        axis_names.append("seconds")
        values.append(100 / results.subject.time_over_natural)
        note = ""
    if len(axis_names) < 3 or dataset_like(results) != CIFAR10:
        return None

    figure, axes = base.new_axes(4.4, projection="polar")
    assert isinstance(axes, PolarAxes)
    angles = [2 * math.pi * place / len(axis_names) for place in range(len(axis_names))]

    def ring(values: list[float], label: str, width: float, **style) -> None:
        style |= {"label": label, "linewidth": width, "markersize": 4}
        axes.plot([*angles, angles[0]], [*values, values[0]], **style)

    natural_seconds = table.column("seconds")["natural"]
    for method in table.rows:
        paper = {name: table.column(name)[method] for name in axis_names}
        if "seconds" in paper:
            paper["seconds"] = 100 * natural_seconds / paper["seconds"]
        label = f"paper: {METHOD_NAMES[method]}"
        ring(list(paper.values()), label, 0.9, linestyle="--", **base.METHODS[method])
    ring(values, "this model", 2.2, **base.OURS)
    axes.fill(angles, values, color=base.OURS["color"], alpha=0.15)
    axes.set_theta_offset(math.pi / 2)
    axes.set_ylim(0, 100)
    axes.set_yticks([25, 50, 75, 100], ["25", "50", "75", "100 %"], fontsize=8, color="#555555")
    axes.set_rlabel_position(180 / len(axis_names))
    axes.set_xticks(angles, [_NAMES[name] for name in axis_names])
    axes.tick_params(axis="x", pad=8)
    base.legend_below(figure)
    described = ", ".join(
        f"{_NAMES[name].replace(chr(10), ' ')} {value:.1f} %"
        for name, value in zip(axis_names, values, strict=True)
    )
    return base.Drawing(figure, f"Radar chart; this model: {described}.", note)
