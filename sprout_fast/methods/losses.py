"""Losses that several methods share: eq. (4) with g = I and different h."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sprout_fast.nn.mixup import MixupTarget
from sprout_fast.ops.generalized_cross_entropy import generalized_cross_entropy
from sprout_fast.ops.sprout_loss import sprout_loss


class CrossEntropy(nn.Module):
    """Eq. (4) on the batch's own labels: h = I, or h(y) = (1 - smoothing) y + smoothing u.

    ``smoothing``, in [0, 1], is the weight of the uniform label u = 1/K.
    """

    def __init__(self, smoothing: float = 0.0) -> None:
        super().__init__()
        _check(smoothing)
        self.smoothing = smoothing

    def forward(self, logits: Tensor, target: MixupTarget) -> Tensor:
        return generalized_cross_entropy(logits, target.labels, label_smoothing=self.smoothing)


class MixedCrossEntropy(nn.Module):
    """Eq. (4) on labels mixed by Mixup, smoothed or not, without a label matrix.

    The label (1 - smoothing) y + smoothing u is the mean of SPROUT's Dirichlet at beta = u.
    """

    uniform: Tensor
    rng_state: Tensor

    def __init__(
        self, num_classes: int, smoothing: float = 0.0, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        _check(smoothing)
        self.smoothing = smoothing
        uniform = torch.full((num_classes,), 1 / num_classes, device=device)
        self.register_buffer("uniform", uniform, persistent=False)
        # An argument of the op; a mean draws no random numbers.
        rng_state = torch.zeros(3, dtype=torch.int64, device=device)
        self.register_buffer("rng_state", rng_state, persistent=False)

    def forward(self, logits: Tensor, target: MixupTarget) -> Tensor:
        return sprout_loss(
            logits,
            *target,
            self.uniform,
            self.rng_state,
            alpha=self.smoothing,
            label_mode="mean",
            beta_grad="none",
        )


def _check(smoothing: float) -> None:
    if not 0 <= smoothing <= 1:
        raise ValueError(f"alpha: got {smoothing}, expected a number in [0, 1]")
