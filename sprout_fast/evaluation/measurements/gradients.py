"""Gradients of the loss to the image: where they are zero, an attack by gradients finds nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sprout_fast.attacks.base import borrowed, value_and_gradient
from sprout_fast.attacks.losses import LOSSES
from sprout_fast.evaluation.measurements.base import Batch, Measurement
from sprout_fast.evaluation.subject import Subject


@dataclass(frozen=True)
class Gradients(Measurement):
    """Cross entropy's and the margin's gradients at the images.

    Columns: for each of ``ce`` and ``margin``, ``NAME_norm`` (l2, in nats or logits for images in
    [0,1]) and ``NAME_zero`` (the share of elements that are 0 or not finite).
    """

    name: str = "gradients"

    def measure(self, subject: Subject, batch: Batch) -> Mapping[str, Tensor]:
        columns = {}
        for name in ("ce", "margin"):
            gradient = input_gradient(subject, batch, name).flatten(1)
            missing = (gradient == 0) | ~gradient.isfinite()
            columns[f"{name}_norm"] = gradient.nan_to_num().norm(dim=1)
            columns[f"{name}_zero"] = missing.float().mean(1)
        return columns


def input_gradient(subject: Subject, batch: Batch, loss: str) -> Tensor:
    """Gradient to each image of ``LOSSES[loss]``, [B,C,H,W]; 0 where the model has no graph."""
    with borrowed("gradients", subject.model, batch.images, batch.labels, None, batch.seed) as (
        images,
        labels,
        _,
    ):
        return value_and_gradient(
            subject.model, images, lambda logits: LOSSES[loss](logits, labels)
        )[2]
