"""CutMix, alone or taking turns with Mixup."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from sprout_fast.methods.base import Method, MethodSetting
from sprout_fast.methods.losses import BinaryCrossEntropy, MixedCrossEntropy
from sprout_fast.nn.mixup import MixupTarget
from sprout_fast.ops.gaussian_mixup import gaussian_mixup
from sprout_fast.ops.sample_mixup import sample_mixup
from sprout_fast.random import PhiloxState


class CutMix(Method, name="cutmix"):
    """CutMix (Yun et al. 2019): x̃ is x_i with a rectangle of x_j, ỹ = λ y_i + (1-λ) y_j, g = I,
    h(y) = (1 - alpha) y + alpha u.

    1-λ is the rectangle's share of the image; before it is cut at the image's border,
    λ ~ Beta(cutmix_alpha, cutmix_alpha). One rectangle per batch, as in torchvision.

    Args:
        cutmix_alpha: parameter of CutMix's Beta distribution.
        mixup_alpha: parameter of λ ~ Beta(mixup_alpha, mixup_alpha) of Mixup, which then replaces
            CutMix in half of the batches, drawn at random; 0 for CutMix alone.
        alpha: weight of the uniform label u = 1/K, in [0, 1].
        loss: cross entropy (ce), or binary cross entropy of each class, averaged over batch and
            classes (bce).
        target_threshold: with bce, classes with a larger share of the label than this are targets
            of 1, before smoothing, and all others of 0, as in timm; by default targets are the
            shares.
    """

    def __init__(
        self,
        setting: MethodSetting,
        *,
        cutmix_alpha: float = 1.0,
        mixup_alpha: float = 0.0,
        alpha: float = 0.0,
        loss: Literal["ce", "bce"] = "ce",
        target_threshold: float | None = None,
    ) -> None:
        if loss not in ("ce", "bce"):
            raise ValueError(f"loss: got {loss!r}, expected 'ce' or 'bce'")
        if loss == "ce" and target_threshold is not None:
            raise ValueError(f"target_threshold: got {target_threshold} without loss 'bce'")
        function = (
            MixedCrossEntropy(setting.num_classes, alpha, setting.device)
            if loss == "ce"
            else BinaryCrossEntropy(alpha, target_threshold)
        )
        super().__init__(CutMixer(setting, cutmix_alpha, mixup_alpha), function)


class CutMixer(nn.Module):
    """Cut and paste, or mix, a batch and normalize it, without waiting for the device.

    All that is drawn is drawn once per batch, the same on all ranks; see :class:`CutMix`.
    """

    def __init__(self, setting: MethodSetting, cutmix_alpha: float, mixup_alpha: float) -> None:
        super().__init__()
        if not 0 < cutmix_alpha <= 1e5:
            raise ValueError(f"cutmix_alpha: got {cutmix_alpha}, expected a number in (0, 1e5]")
        if not 0 <= mixup_alpha <= 1e5:
            raise ValueError(f"mixup_alpha: got {mixup_alpha}, expected a number in [0, 1e5]")
        self.cutmix_alpha, self.mixup_alpha = cutmix_alpha, mixup_alpha
        self.normalization = {"mean": setting.mean, "std": setting.std, "dtype": setting.dtype}
        self.rng = PhiloxState(setting.seed, setting.device)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, MixupTarget]:
        """Return the batch, normalized [B, 3, H, W], and its target, for uint8 ``images``."""
        state = self.rng.next() if self.training else self.rng.current()
        if not self.training:
            batch = gaussian_mixup(images, None, None, state, sigma=0.0, **self.normalization)
            return batch, MixupTarget(labels)
        partner, lam = sample_mixup(len(images), state, mixup_alpha=self.cutmix_alpha)
        # Beta(1, 1) is uniform: the rectangle's center, and the turn.
        uniform = sample_mixup(3, self.rng.next(), mixup_alpha=1.0, per_sample=True)[1]
        cuts = (uniform[2:] < 0.5) | (self.mixup_alpha == 0)
        inside, share = _rectangle(images, 1 - lam, uniform)
        inside = inside & cuts
        images = torch.where(inside, images[partner], images)
        share = torch.where(cuts, share, 0)
        if self.mixup_alpha == 0:
            batch = gaussian_mixup(images, None, None, state, sigma=0.0, **self.normalization)
            return batch, MixupTarget(labels, labels[partner], 1 - share)
        mixed = sample_mixup(len(images), self.rng.next(), mixup_alpha=self.mixup_alpha)[1]
        mixed = torch.where(cuts, 1, mixed)  # an image that is cut is not mixed too
        batch = gaussian_mixup(images, partner, mixed, state, sigma=0.0, **self.normalization)
        return batch, MixupTarget(labels, labels[partner], torch.where(cuts, 1 - share, mixed))


def _rectangle(images: Tensor, area: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    """Return where a rectangle is, bool [H, W], and its share of the image, float32 [1].

    It has the share ``area`` [1] of the image's area and its ratio, apart from rounding and from
    what is cut at the border; ``center`` has its row and column in [0, 1].
    """
    sides, masks = [], []
    for size, middle in zip(images.shape[2:], center, strict=False):
        place, half = (middle * size).floor(), (area.sqrt() * size / 2).floor()
        low, high = (place - half).clamp(min=0), (place + half).clamp(max=size)
        index = torch.arange(size, device=images.device)
        masks.append((index >= low) & (index < high))
        sides.append((high - low) / size)
    return masks[0][:, None] & masks[1], sides[0] * sides[1]
