"""The loss surface around the images (Fig. 2) and pairwise products of SPROUT's beta (Fig. 4)."""

from __future__ import annotations

import numpy as np

from sprout_fast.evaluation.report.plots import base
from sprout_fast.evaluation.results import Results

_NAMED = 20  # maximum number of classes whose names fit


@base.register(
    place=7,
    title="Loss landscape",
    caption="Mean cross entropy along the sign of the input gradient (x) and along a random "
    "direction of +1 and -1 (y). It should be smooth and increase to the right; where it is flat, "
    "the gradient carries little information. The dotted line is the eps of this evaluation.",
    paper="The paper's Fig. 2 shows such surfaces, without numbers.",
)
def loss_landscape(results: Results) -> base.Drawing | None:
    record = results.records.get("loss landscape")
    if record is None or "loss" not in record.columns:
        return None
    losses = record.columns["loss"].double()
    losses = losses[losses.isfinite().flatten(1).all(1)]
    if len(losses) == 0:
        return None
    mean = losses.mean(0).numpy()  # [along the gradient, along the random direction]
    lengths = np.linspace(0, record.parameters["radius"], len(mean))
    figure, axes = base.new_axes(3.9)
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
    return base.Drawing(
        figure,
        f"Contours of the mean loss: {mean[0, 0]:.3g} nats at the clean images, {mean[-1, 0]:.3g} "
        f"at distance {lengths[-1]:g} along the gradient sign, {mean[0, -1]:.3g} at distance "
        f"{lengths[-1]:g} along the random direction.",
        f"Mean over {len(losses)} images.",
    )


@base.register(
    place=8,
    title="Products of beta",
    caption="beta_s times beta_t for each pair of classes at the end of training: the classes "
    "between which SPROUT learned to smooth the labels.",
    paper="The paper's Fig. 4 shows this matrix, without numbers.",
)
def beta_matrix(results: Results) -> base.Drawing | None:
    if results.subject.beta is None:
        return None
    beta = results.subject.beta.double().cpu()
    figure, axes = base.new_axes(4.2)
    axes.grid(False)
    shown = axes.imshow(beta.outer(beta).numpy(), cmap="cividis", interpolation="nearest")
    figure.colorbar(shown, ax=axes, label="beta_s · beta_t", shrink=0.75)
    names = results.subject.class_names or [str(k) for k in range(len(beta))]
    if len(beta) <= _NAMED:
        axes.set_xticks(range(len(beta)), names, rotation=90, fontsize=9)
        axes.set_yticks(range(len(beta)), names, fontsize=9)
    axes.set_xlabel("class t")
    axes.set_ylabel("class s")
    low, high = int(beta.argmin()), int(beta.argmax())
    return base.Drawing(
        figure,
        f"Matrix of {len(beta)} by {len(beta)} products. Beta is smallest for {names[low]} "
        f"({beta[low]:.3g}) and largest for {names[high]} ({beta[high]:.3g}).",
    )
