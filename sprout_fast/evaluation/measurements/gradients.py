"""Input gradients of the loss, and how well they predict it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sprout_fast.attacks.balls import BALLS
from sprout_fast.attacks.base import borrowed, value_and_gradient
from sprout_fast.attacks.losses import LOSSES
from sprout_fast.evaluation.measurements.base import Batch, Measurement
from sprout_fast.evaluation.names import NormName
from sprout_fast.evaluation.subject import Subject

# Fractions of eps. Central differences over a step that is too small drown in the rounding errors
# of a network that computes in float16; over one that is too large, the loss is curved.
SLOPE_STEPS = (1 / 64, 1 / 16)
RISE_STEP = 1 / 4


@dataclass(frozen=True)
class Gradients(Measurement):
    """Input gradients of the cross entropy and of the margin, on the first images.

    Args:
        norm: norm of the ball, in which steps have the direction of an attack's.
        eps: its radius.

    Columns, for ``ce`` and ``margin`` each: ``NAME_norm`` (l2 norm, in nats or logits per unit of
    images in [0,1]) and ``NAME_zero`` (fraction of elements that are zero or not finite). For the
    margin also ``slope`` (its central difference along an attack's step, divided by what the
    gradient predicts; of two step sizes, the one closer to 1) and ``rise`` (its change by a step
    of eps / 4 along the gradient).
    """

    name: str = "gradients"
    norm: NormName = "linf"
    eps: float = 8 / 255

    limit: ClassVar[int | None] = 128
    only_correct: ClassVar[bool] = True

    def measure(self, subject: Subject, batch: Batch) -> dict[str, Tensor]:
        columns = {}
        # Away from 0 and 1 by a step, so that no step leaves [0,1].
        # The steepest step in the l1 ball is a jump of one pixel, so there steps are those of l2.
        sparse, count = self.norm == "l1", batch.images[0].numel()
        ball, eps = (BALLS["l2"], self.eps / count**0.5) if sparse else (BALLS[self.norm], self.eps)
        inner = min(max(SLOPE_STEPS) * eps, 1 / 255)
        batch = Batch(batch.images.clamp(inner, 1 - inner), batch.labels, batch.seed)
        for name in ("ce", "margin"):
            gradient = input_gradient(subject, batch, name)
            flat = gradient.flatten(1)
            missing = (flat == 0) | ~flat.isfinite()
            columns[f"{name}_norm"] = flat.nan_to_num().norm(dim=1)
            columns[f"{name}_zero"] = missing.float().mean(1)
        # Here the gradient is that of the margin.
        direction = ball.direction(gradient.nan_to_num())
        predicted = (direction * gradient.nan_to_num()).double().flatten(1).sum(1)

        def margin(step: float) -> Tensor:
            points = (batch.images + step * eps * direction).clamp(0, 1)
            return LOSSES["margin"](subject.logits(points), batch.labels).double()

        slopes = torch.stack(
            [(margin(h) - margin(-h)) / (2 * h * eps * predicted) for h in SLOPE_STEPS]
        )
        slopes = slopes.where(slopes.isfinite(), 0)
        best = (slopes - 1).abs().argmin(0)
        columns["slope"] = slopes.gather(0, best[None])[0]
        columns["rise"] = margin(RISE_STEP) - margin(0)
        return columns


def input_gradient(subject: Subject, batch: Batch, loss: Literal["ce", "margin"]) -> Tensor:
    """Return the gradient [B,C,H,W] of ``LOSSES[loss]``, 0 for logits without an autograd graph."""
    copies = borrowed("gradients", subject.model, batch.images, batch.labels, None, batch.seed)
    with copies as (images, labels, _):
        return value_and_gradient(subject.model, images, lambda z: LOSSES[loss](z, labels))[2]
