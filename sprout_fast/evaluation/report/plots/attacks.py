"""Accuracy under each attack, and the sizes of the successful perturbations."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from sprout_fast.evaluation.recorder import Record
from sprout_fast.evaluation.report.plots import base
from sprout_fast.evaluation.results import Results

_PANELS = 5


@base.register(
    place=1,
    title="Accuracy by attack",
    caption="Accuracy under each attack, in the attack's own ball, with 95 % intervals. A plus "
    "marks attacks in a cascade, each on samples still correctly classified; their bars include "
    "the errors of earlier attacks. The dashed line is the robust accuracy of this evaluation.",
    paper="The paper's numbers for the attacks of its protocol are in its Tables 2, 3 and 9.",
)
def accuracy_by_attack(results: Results) -> base.Drawing | None:
    records = {"clean": results.clean_record} | results.attacks
    if len(records) < 2:
        return None
    names = [
        f"{name} +" if record.parameters.get("cascade") else name
        for name, record in records.items()
    ]
    accuracies = [record.accuracy for record in records.values()]
    figure, axes = base.new_axes(0.9 + 0.18 * len(names))
    below, above = zip(*map(base.errors, accuracies), strict=True)
    values = [100 * accuracy.top1 for accuracy in accuracies]
    style = {"color": base.OURS["color"], "alpha": 0.75, "height": 0.7}
    error_style = {"elinewidth": 0.8, "ecolor": "#333333"}
    axes.barh(names, values, xerr=(below, above), error_kw=error_style, **style)
    axes.axvline(100 * results.robust_accuracy, color="black", linestyle="--", linewidth=1)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", labelsize=9)
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy (%)")
    bars = ", ".join(f"{name} {value:.1f} %" for name, value in zip(names, values, strict=True))
    robust = f"robust accuracy {100 * results.robust_accuracy:.1f} %"
    return base.Drawing(figure, f"Bars: {bars}; {robust}.")


@base.register(
    place=10,
    title="Size of the perturbations",
    caption="l2 distance from the clean image to the misclassified one, for the most successful "
    "attack of each kind. Most attacks stop at the first success, so smaller perturbations may "
    "exist.",
    paper="The paper has no such figure.",
)
def perturbation_sizes(results: Results) -> base.Drawing | None:
    sizes = ((record, _lengths(record)) for record in base.strongest_of_each_kind(results))
    found = [(record, lengths) for record, lengths in sizes if len(lengths) > 0][:_PANELS]
    if not found:
        return None
    figure = Figure(figsize=(base.WIDTH, 0.5 + 1.05 * len(found)), layout="constrained")
    panels = figure.subplots(len(found), sharex=True, squeeze=False)[:, 0]
    longest = max(lengths.max() for _, lengths in found)
    described = []
    for axes, (record, lengths) in zip(panels, found, strict=True):
        axes.hist(lengths, np.linspace(0, longest or 1, 41), color=base.OURS["color"])
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_title(f"{record.name} (errors found: {len(lengths)})", size=10)
        axes.set_ylabel("images")
        described.append(f"{record.name}: {len(lengths)} errors, median {np.median(lengths):.3g}")
    panels[-1].set_xlim(left=0)
    panels[-1].set_xlabel(base.eps_label("l2", "distance"))
    return base.Drawing(figure, f"Histograms of l2 distances. {'; '.join(described)}.")


def _lengths(record: Record) -> np.ndarray:
    """Return the l2 distances of the successful perturbations."""
    if len(record.rows) == 0:
        return np.empty(0)
    lengths = record.columns["l2"].double()
    return lengths[record.columns["misclassified"] & lengths.isfinite()].numpy()
