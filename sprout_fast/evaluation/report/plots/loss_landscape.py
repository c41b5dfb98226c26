"""The loss surface around the images (Fig. 2)."""

from __future__ import annotations

import numpy as np

from sprout_fast.evaluation.report.plots.base import Drawing, new_axes, register
from sprout_fast.evaluation.results import Results


@register(
    place=7,
    title="Loss landscape",
    caption="Mean cross entropy along the sign of the input gradient (x) and along a random "
    "direction of +1 and -1 (y). It should be smooth and increase to the right; where it is flat, "
    "the gradient carries little information. The dotted line is the eps of this evaluation.",
    paper="The paper's Fig. 2 shows such surfaces, without numbers.",
)
def loss_landscape(results: Results) -> Drawing | None:
    record = results.records.get("loss landscape")
    if record is None or "loss" not in record.columns:
        return None
    losses = record.columns["loss"].double()
    losses = losses[losses.isfinite().flatten(1).all(1)]
    if len(losses) == 0:
        return None
    mean = losses.mean(0).numpy()  # [along the gradient, along the random direction]
    lengths = np.linspace(0, record.parameters["radius"], len(mean))
    figure, axes = new_axes(3.9)
    axes.grid(False)
    # A constant surface needs a nonempty range of levels.
    low, high = mean.min(), max(mean.max(), mean.min() + 1e-6)
    levels = np.linspace(low, high, 13)
    filled = axes.contourf(lengths, lengths, mean.T, levels, cmap="cividis")
    axes.contour(filled, levels=levels[::2], colors="white", linewidths=0.5)
    figure.colorbar(filled, ax=axes, label="cross entropy (nats)", format="%.3g", shrink=0.8)
    axes.axvline(results.eps, color="white", linestyle=":", linewidth=1)
    axes.set_aspect("equal")
    axes.set_xlabel("along the gradient sign (images in [0,1])")
    axes.set_ylabel("along a random direction")
    return Drawing(
        figure,
        f"Contours of the mean loss: {mean[0, 0]:.3g} nats at the clean images, {mean[-1, 0]:.3g} "
        f"at distance {lengths[-1]:g} along the gradient sign, {mean[0, -1]:.3g} at distance "
        f"{lengths[-1]:g} along the random direction.",
        f"Mean over {len(losses)} images.",
    )
