"""Losses that several methods share: eq. (4) with g = I and different h."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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


class BinaryCrossEntropy(nn.Module):
    """Binary cross entropy of each class on mixed labels, without a label matrix.

    The loss of "ResNet strikes back" (Wightman et al. 2021), section 3: each class is a problem of
    its own. The mean is over the batch and the classes, as in timm.

    Args:
        smoothing: a target t becomes (1 - smoothing) t + smoothing / K.
        threshold: classes with a larger share of the label are targets of 1, the others of 0; None
            for the shares themselves.
    """

    def __init__(self, smoothing: float = 0.0, threshold: float | None = None) -> None:
        super().__init__()
        _check(smoothing)
        if threshold is not None and not 0 <= threshold < 1:
            raise ValueError(f"target_threshold: got {threshold}, expected a number in [0, 1)")
        self.smoothing, self.threshold = smoothing, threshold

    def forward(self, logits: Tensor, target: MixupTarget) -> Tensor:
        logits, labels, partners = logits.float(), target.labels, target.partner_labels
        if partners is None or target.lam is None:
            partners, lam = labels, torch.ones((), device=logits.device)
        else:
            lam = target.lam
        same = labels == partners
        share, other = torch.where(same, 1, lam), torch.where(same, 0, 1 - lam)
        if self.threshold is not None:
            share, other = (value > self.threshold for value in (share, other))
        # The mean of log(1 + exp(z)) - t z, where t is not 0 for at most two classes.
        own, its = (logits.gather(1, index[:, None]).squeeze(1) for index in (labels, partners))
        hits = (share * own + other * its) * (1 - self.smoothing) / logits.shape[1]
        return (
            F.softplus(logits).mean(1) - self.smoothing / logits.shape[1] * logits.mean(1) - hits
        ).mean()


def _check(smoothing: float) -> None:
    if not 0 <= smoothing <= 1:
        raise ValueError(f"alpha: got {smoothing}, expected a number in [0, 1]")
