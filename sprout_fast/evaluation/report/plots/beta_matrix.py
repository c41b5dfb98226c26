"""Pairwise products of SPROUT's beta (Fig. 4)."""

from __future__ import annotations

from sprout_fast.evaluation.report.plots.base import Drawing, new_axes, register
from sprout_fast.evaluation.results import Results

_NAMED = 20  # maximum number of classes whose names fit


@register(
    place=8,
    title="Products of beta",
    caption="beta_s times beta_t for each pair of classes at the end of training: the classes "
    "between which SPROUT learned to smooth the labels.",
    paper="The paper's Fig. 4 shows this matrix, without numbers.",
)
def beta_matrix(results: Results) -> Drawing | None:
    beta = results.subject.beta
    if beta is None:
        return None
    beta = beta.double().cpu()
    figure, axes = new_axes(4.2)
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
    return Drawing(
        figure,
        f"Matrix of {len(beta)} by {len(beta)} products. Beta is smallest for {names[low]} "
        f"({beta[low]:.3g}) and largest for {names[high]} ({beta[high]:.3g}).",
    )
