"""Gaussian noise, Mixup and normalization of a batch as one module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sprout_fast.ops.gaussian_mixup import gaussian_mixup
from sprout_fast.ops.sample_mixup import sample_mixup
from sprout_fast.random import PhiloxState


class MixupTarget(NamedTuple):
    """The labels of a mixed batch: ``lam`` on ``labels``, ``1 - lam`` on ``partner_labels``.

    Attributes:
        labels: int64 [B].
        partner_labels: int64 [B], or None without Mixup.
        lam: float32 [B] or [1], or None without Mixup.
    """

    labels: Tensor
    partner_labels: Tensor | None = None
    lam: Tensor | None = None


class SproutMixup(nn.Module):
    """Gaussian noise, Mixup and normalisation of a batch: Algorithm 1, steps 1 and 2.

    In training mode it draws lam ~ Beta(mixup_alpha, mixup_alpha) and a partner for every image from its own state; in
    eval mode it only normalises. ``sigma=0, mixup_alpha=0`` is natural training's normalisation.

    Args:
        sigma: noise's standard deviation on [0, 1] images, one number or one a channel.
        mixup_alpha: Mixup's Beta parameter; 0 switches Mixup off. The paper: sigma = 0.1, mixup_alpha = 0.2.
        mean, std: the model's normalisation on [0, 1] images, one number or one a channel.
        per_sample: a lam for each image instead of one for the batch.
        noise: ``"marginal"`` or ``"paired"``, see :func:`sprout_fast.gaussian_mixup`.
        dtype: of the mixed batch.
        input_normalized_by: ``(mean, std)`` that floating inputs were already normalised by, for
            loops whose loader does that: the noise is then added in the units of [0, 1] all the
            same.
        seed, first_row, device: of the random state, see :class:`PhiloxState`.

    Example:
        >>> mixer = SproutMixup(mean=0.5, std=0.25)
        >>> images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
        >>> batch, target = mixer(images, torch.tensor([0, 1, 2, 1]))
        >>> batch.dtype, batch.is_contiguous(memory_format=torch.channels_last)
        (torch.float32, True)
    """

    def __init__(
        self,
        sigma: float | Sequence[float] = 0.1,
        mixup_alpha: float = 0.2,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        *,
        per_sample: bool = False,
        noise: str = "marginal",
        dtype: torch.dtype = torch.float32,
        input_normalized_by: tuple[Sequence[float], Sequence[float]] | None = None,
        seed: int = 0,
        first_row: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= mixup_alpha <= 1e5:
            raise ValueError(f"mixup_alpha must be in [0, 1e5] (0: no Mixup), got {mixup_alpha}")
        self.sigma, self.mixup_alpha, self.mean, self.std = sigma, mixup_alpha, mean, std
        self.per_sample, self.noise, self.dtype = per_sample, noise, dtype
        if input_normalized_by is not None:
            if mean is not None or std is not None:
                raise ValueError(
                    "give mean and std, or input_normalized_by for images that already are "
                    "normalised, not both"
                )
            # x' = (x - m) / s turns noise of sigma into noise of sigma / s, and Mixup, whose
            # weights add up to 1, keeps the form.
            _, normalized_std = input_normalized_by
            sigmas = [sigma] * len(normalized_std) if isinstance(sigma, (int, float)) else sigma
            if len(sigmas) != len(normalized_std):
                raise ValueError(
                    f"sigma has {len(sigmas)} channels, input_normalized_by {len(normalized_std)}"
                )
            self.sigma = [s / d for s, d in zip(sigmas, normalized_std, strict=True)]
        self.input_normalized = input_normalized_by is not None
        self.rng = PhiloxState(seed, device, first_row)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, MixupTarget]:
        """Mix a batch.

        Args:
            images: [B, C, H, W] uint8, or floating in [0, 1] (or normalised, see above).
            labels: int64 [B].

        Returns:
            The mixed, normalised batch [B, C, H, W] in channels-last memory, and its target.

        Raises:
            TypeError: uint8 images where ``input_normalized_by`` says that they are normalised.
        """
        if self.input_normalized and images.dtype == torch.uint8:
            raise TypeError("input_normalized_by takes normalised floating images, got uint8")
        rng_state = self.rng.next() if self.training else self.rng.state
        partner = lam = partner_labels = None
        if self.training and self.mixup_alpha > 0:
            partner, lam = sample_mixup(
                images.shape[0], rng_state, mixup_alpha=self.mixup_alpha, per_sample=self.per_sample
            )
            partner_labels = labels[partner]
        batch = gaussian_mixup(
            images,
            partner,
            lam,
            rng_state,
            sigma=self.sigma if self.training else 0.0,
            mean=self.mean,
            std=self.std,
            noise=self.noise,
            dtype=self.dtype,
        )
        return batch, MixupTarget(labels, partner_labels, lam)

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}, mixup_alpha={self.mixup_alpha}, noise={self.noise!r}"
