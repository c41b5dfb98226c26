"""How large the changes are that attacks found."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from sprout_fast.evaluation.recorder import Record
from sprout_fast.evaluation.report.plots.base import (
    OURS,
    WIDTH,
    Drawing,
    eps_label,
    register,
    strongest_of_each_kind,
)
from sprout_fast.evaluation.results import Results

_PANELS = 5


@register(
    place=10,
    title="Size of the perturbations",
    caption="How far, in l2, the errors lie that attacks found, whatever their own norm: of each "
    "kind of attack the one that found most. Attacks stop at an image as soon as it falls, so that "
    "smaller changes may suffice.",
    paper="The paper gives no such distribution.",
)
def perturbation_sizes(results: Results) -> Drawing | None:
    found = [
        (record, lengths)
        for record in strongest_of_each_kind(results)
        if len(lengths := _lengths(record)) > 0
    ][:_PANELS]
    if not found:
        return None
    figure = Figure(figsize=(WIDTH, 0.5 + 1.05 * len(found)), layout="constrained")
    panels = figure.subplots(len(found), sharex=True, squeeze=False)[:, 0]
    longest = max(lengths.max() for _, lengths in found)
    said = []
    for axes, (record, lengths) in zip(panels, found, strict=True):
        axes.hist(lengths, np.linspace(0, longest or 1, 41), color=OURS["color"])
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_title(f"{record.name} (errors found: {len(lengths)})", size=10)
        axes.set_ylabel("images")
        said.append(f"{record.name}: {len(lengths)} errors, median {np.median(lengths):.3g}")
    panels[-1].set_xlim(left=0)
    panels[-1].set_xlabel(eps_label("l2", "length"))
    return Drawing(figure, f"Histograms of l2 lengths. {'; '.join(said)}.")


def _lengths(record: Record) -> np.ndarray:
    """In l2, where the attack found an error."""
    if len(record.rows) == 0:
        return np.empty(0)
    lengths = record.columns["l2"].double()
    return lengths[record.columns["misclassified"] & lengths.isfinite()].numpy()
