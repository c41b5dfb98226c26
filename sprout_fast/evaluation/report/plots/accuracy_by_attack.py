"""Every attack's accuracy in one list."""

from __future__ import annotations

from sprout_fast.evaluation.report.plots.base import OURS, Drawing, errors, new_axes, register
from sprout_fast.evaluation.results import Results


@register(
    place=1,
    title="Accuracy by attack",
    caption="Images that stand under each attack in its own ball, with 95 % intervals; an attack "
    "with a plus came after others in a cascade, and its bar counts what they took too. The dashed "
    "line is the verdict, over all attacks in its ball.",
    paper="The paper has the rows of its protocol in its Tables 2, 3 and 9 (see the tables).",
)
def accuracy_by_attack(results: Results) -> Drawing | None:
    records = {"clean": results.records["clean"]} | results.attacks
    records = {name: record for name, record in records.items() if record.accuracy is not None}
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
    said = ", ".join(f"{name} {value:.1f} %" for name, value in zip(names, values, strict=True))
    return Drawing(figure, f"Bars: {said}; verdict {100 * results.robust_accuracy:.1f} %.")
