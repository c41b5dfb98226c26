"""The loss around an image, along two directions (Fig. 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sprout_fast.evaluation.measurements.base import Batch, Measurement
from sprout_fast.evaluation.measurements.gradients import input_gradient
from sprout_fast.evaluation.subject import Subject


@dataclass(frozen=True)
class Landscape(Measurement):
    """Cross entropy at x + s·sign(gradient) + t·r, with r a random direction of +1 and -1.

    Args:
        radius: largest s and t, for images in [0,1]; the smallest is 0.
        points: number of values of s and of t.

    Column: ``loss`` [B, points (s), points (t)], in nats.
    """

    name: str = "loss landscape"
    radius: float = 0.06
    points: int = 13

    limit: ClassVar[int | None] = 16

    def measure(self, subject: Subject, batch: Batch) -> Mapping[str, Tensor]:
        gradient_sign = input_gradient(subject, batch, "ce").sign()
        drawn = torch.rand(batch.images.shape, generator=batch.generator(), device=subject.device)
        rademacher = torch.where(drawn < 0.5, -1.0, 1.0)
        lengths = torch.linspace(0, self.radius, self.points, device=subject.device)

        def loss(s: Tensor, t: Tensor) -> Tensor:
            images = (batch.images + s * gradient_sign + t * rademacher).clamp(0, 1)
            return F.cross_entropy(subject.logits(images), batch.labels, reduction="none")

        rows = [torch.stack([loss(s, t) for t in lengths], dim=1) for s in lengths]
        return {"loss": torch.stack(rows, dim=1)}
