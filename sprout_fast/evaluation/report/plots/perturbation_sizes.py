"""Sizes of the successful perturbations."""

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
    caption="l2 distance from the clean image to the misclassified one, for the most successful "
    "attack of each kind. Most attacks stop at the first success, so smaller perturbations may "
    "exist.",
    paper="The paper has no such figure.",
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
    described = []
    for axes, (record, lengths) in zip(panels, found, strict=True):
        axes.hist(lengths, np.linspace(0, longest or 1, 41), color=OURS["color"])
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_title(f"{record.name} (errors found: {len(lengths)})", size=10)
        axes.set_ylabel("images")
        described.append(f"{record.name}: {len(lengths)} errors, median {np.median(lengths):.3g}")
    panels[-1].set_xlim(left=0)
    panels[-1].set_xlabel(eps_label("l2", "distance"))
    return Drawing(figure, f"Histograms of l2 distances. {'; '.join(described)}.")


def _lengths(record: Record) -> np.ndarray:
    """Return the l2 distances of the successful perturbations."""
    if len(record.rows) == 0:
        return np.empty(0)
    lengths = record.columns["l2"].double()
    return lengths[record.columns["misclassified"] & lengths.isfinite()].numpy()
