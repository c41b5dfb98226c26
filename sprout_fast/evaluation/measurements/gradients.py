"""Input gradients of the loss. Where they vanish, gradient-based attacks find nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from sprout_fast.attacks.base import borrowed, value_and_gradient
from sprout_fast.attacks.losses import LOSSES
from sprout_fast.evaluation.measurements.base import Batch, Measurement
from sprout_fast.evaluation.subject import Subject


@dataclass(frozen=True)
class Gradients(Measurement):
    """Input gradients of the cross entropy and of the margin.

    Columns, for ``ce`` and ``margin`` each: ``NAME_norm`` (l2 norm, in nats or logits per unit of
    images in [0,1]) and ``NAME_zero`` (fraction of elements that are zero or not finite).
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


def input_gradient(subject: Subject, batch: Batch, loss: Literal["ce", "margin"]) -> Tensor:
    """Return the gradient [B,C,H,W] of ``LOSSES[loss]``, 0 for logits without an autograd graph."""
    copies = borrowed("gradients", subject.model, batch.images, batch.labels, None, batch.seed)
    with copies as (images, labels, _):
        return value_and_gradient(subject.model, images, lambda z: LOSSES[loss](z, labels))[2]
