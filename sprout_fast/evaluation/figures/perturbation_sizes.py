"""How small a change suffices (attacks that look for the nearest error)."""

from __future__ import annotations

import numpy as np

from sprout_fast.evaluation.figures.base import (
    ALSO_OURS,
    OURS,
    Drawing,
    eps_label,
    new_axes,
    register,
)
from sprout_fast.evaluation.records import Record
from sprout_fast.evaluation.results import Results

# Attacks that make the change as small as they can, whatever eps is.
_NEAREST = ("cw_l2", "fab", "fab_t")


@register(
    place=10,
    title="Size of the perturbations",
    caption="How large a change each attack that looks for the nearest error needed, for the "
    "images at which it found one; the dashed line is the attack's eps.",
    paper="The paper counts C&W's successes up to l2 0.05 and gives no distribution.",
)
def perturbation_sizes(results: Results) -> Drawing | None:
    found = [
        (record, sizes)
        for record in results.attacks.values()
        if record.parameters["attack"] in _NEAREST and len(sizes := _sizes(results, record)) > 0
    ]
    if not found:
        return None
    figure, _ = new_axes(0.9 + 2.1 * len(found))
    figure.clear()
    said = []
    all_axes = figure.subplots(len(found), 1, squeeze=False)[:, 0]
    for axes, (record, sizes), style in zip(all_axes, found, (OURS, ALSO_OURS) * 2, strict=False):
        eps, norm = record.parameters["eps"], record.parameters["norm"]
        bins = np.linspace(0, 1.05 * max(sizes.max(), eps), 31)
        axes.hist(sizes, bins, color=style["color"])
        axes.axvline(eps, color="black", linestyle="--", linewidth=1)
        axes.set_title(f"{record.name}: {len(sizes)} errors in {len(record.rows)} images", size=10)
        axes.set_xlabel(eps_label(norm, "length"))
        axes.set_ylabel("images")
        said.append(
            f"{record.name}: {len(sizes)} errors found in {len(record.rows)} images, median length "
            f"{np.median(sizes):.3g}"
        )
    return Drawing(figure, f"Histograms. {'; '.join(said)}.")


def _sizes(results: Results, record: Record) -> np.ndarray:
    """Lengths in the attack's norm where the model errs, inside its eps or not."""
    if len(record.rows) == 0:
        return np.empty(0)
    sizes = record.columns[record.parameters["norm"]].double()
    errs = record.columns["predicted"] != results.labels[record.rows]
    return sizes[errs & sizes.isfinite()].numpy()
