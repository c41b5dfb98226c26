"""Accuracy under each attack."""

from __future__ import annotations

from sprout_fast.evaluation.report.plots.base import OURS, Drawing, errors, new_axes, register
from sprout_fast.evaluation.results import Results


@register(
    place=1,
    title="Accuracy by attack",
    caption="Accuracy under each attack, in the attack's own ball, with 95 % intervals. A plus "
    "marks attacks in a cascade, each on samples still correctly classified; their bars include "
    "the errors of earlier attacks. The dashed line is the robust accuracy of this evaluation.",
    paper="The paper's numbers for the attacks of its protocol are in its Tables 2, 3 and 9.",
)
def accuracy_by_attack(results: Results) -> Drawing | None:
    records = {"clean": results.clean_record} | results.attacks
    if len(records) < 2:
        return None
    names = [
        f"{name} +" if record.parameters.get("cascade") else name
        for name, record in records.items()
    ]
    accuracies = [record.accuracy for record in records.values()]
    figure, axes = new_axes(0.9 + 0.18 * len(names))
    below, above = zip(*map(errors, accuracies), strict=True)
    values = [100 * accuracy.top1 for accuracy in accuracies]
    axes.barh(
        names,
        values,
        xerr=(below, above),
        color=OURS["color"],
        alpha=0.75,
        height=0.7,
        error_kw={"elinewidth": 0.8, "ecolor": "#333333"},
    )
    axes.axvline(100 * results.robust_accuracy, color="black", linestyle="--", linewidth=1)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", labelsize=9)
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy (%)")
    bars = ", ".join(f"{name} {value:.1f} %" for name, value in zip(names, values, strict=True))
    return Drawing(figure, f"Bars: {bars}; robust accuracy {100 * results.robust_accuracy:.1f} %.")
