"""Gaussian noise, Mixup and normalization of a batch as one module."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn

from sprout_fast.ops.gaussian_mixup import Noise, gaussian_mixup
from sprout_fast.ops.sample_mixup import sample_mixup_
from sprout_fast.random import PhiloxState


class MixupTarget(NamedTuple):
    """Labels of a mixed batch: ``lam`` weights ``labels``, ``1 - lam`` weights ``partner_labels``.

    The labels are int64 [B], ``lam`` is float32 [B] or [1]; without Mixup, ``partner_labels`` and
    ``lam`` are None.
    """

    labels: Tensor
    partner_labels: Tensor | None = None
    lam: Tensor | None = None


class SproutMixup(nn.Module):
    """Gaussian noise, Mixup and normalization of a batch: Algorithm 1, steps 1 and 2.

    In training mode it draws a partner for each image and ``lam ~ Beta(mixup_alpha, mixup_alpha)``,
    the weight of the image itself, from its own random state; in evaluation mode it only
    normalizes. ``sigma=0, mixup_alpha=0`` is the normalization of natural training.

    Args:
        sigma, mean, std, noise, dtype: see :func:`sprout_fast.gaussian_mixup`. The paper's sigma is
            0.1, the default.
        mixup_alpha: parameter of Mixup's Beta distribution, in [0, 1e5]; 0 disables Mixup. 0.2 in
            the paper.
        per_sample: whether to draw one ``lam`` per image instead of one per batch.
        input_normalized_by: ``(mean, std)`` if the loader already normalizes the images. The noise
            is still ``sigma`` in units of [0, 1] images. Excludes ``mean`` and ``std``.
        seed, first_row, device: see :class:`sprout_fast.PhiloxState`.

    Raises:
        ValueError: An option has a value that is not accepted; the message names it.

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
        noise: Noise = "marginal",
        dtype: torch.dtype = torch.float32,
        input_normalized_by: tuple[Sequence[float], Sequence[float]] | None = None,
        seed: int = 0,
        first_row: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= mixup_alpha <= 1e5:
            raise ValueError(f"mixup_alpha must be in [0, 1e5] (0: no Mixup), got {mixup_alpha}")
        check_option("noise", noise, get_args(Noise))
        # The op needs numbers, and reading them from a GPU's tensor in each call would wait for it.
        self.mean, self.std = (x.tolist() if isinstance(x, Tensor) else x for x in (mean, std))
        self.sigma, self.mixup_alpha = sigma, mixup_alpha
        self.per_sample, self.dtype = per_sample, dtype
        self.noise: Noise = noise
        if input_normalized_by is not None:
            if mean is not None or std is not None:
                raise ValueError(
                    "mean and std must be None if input_normalized_by is given: the images are "
                    "normalized already"
                )
            # Normalizing by s turns noise of sigma into noise of sigma / s; Mixup, whose weights
            # sum to 1, commutes with it.
            stds = input_normalized_by[1]
            sigmas = [sigma] * len(stds) if isinstance(sigma, (int, float)) else sigma
            if len(sigmas) != len(stds):
                raise ValueError(
                    f"sigma must have one value per channel of input_normalized_by ({len(stds)}), "
                    f"got {len(sigmas)}"
                )
            self.sigma = [s / d for s, d in zip(sigmas, stds, strict=True)]
        self.input_normalized = input_normalized_by is not None
        self.rng = PhiloxState(seed, device, first_row)
        self._checks_range = True

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SproutMixup:
        """Cast the output as ``model.half()`` and the like cast the model."""
        super()._apply(fn, recurse)
        self.dtype = fn(torch.empty((), dtype=self.dtype, device=self.rng.state.device)).dtype
        return self

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, MixupTarget]:
        """Mix a batch.

        Args:
            images: [B, C, H, W]: uint8, floating in [0, 1], or floating and normalized by
                ``input_normalized_by``.
            labels: int64 [B].

        Returns:
            The mixed, normalized batch [B, C, H, W] in channels-last memory format, and its target.

        Raises:
            TypeError: The images are uint8 although ``input_normalized_by`` is given.
        """
        if self.input_normalized and images.dtype == torch.uint8:
            raise TypeError(
                "images must be floating and normalized if input_normalized_by is given, got uint8"
            )
        if self._checks_range and images.is_floating_point() and not torch.compiler.is_compiling():
            self._checks_range = False  # once: on a GPU it waits for the images
            self._warn_of_range(images)
        rng, sigma = self.rng, self.sigma if self.training else 0.0
        partner, target = None, MixupTarget(labels)
        if self.training and self.mixup_alpha > 0:
            partner, lam, partner_labels, rng_state = sample_mixup_(
                rng, labels, self.mixup_alpha, self.per_sample
            )
            target = MixupTarget(labels, partner_labels, lam)
        else:
            rng_state = rng.unread if sigma == 0 else rng.next()
        batch = gaussian_mixup(
            images,
            partner,
            target.lam,
            rng_state,
            sigma=sigma,
            mean=self.mean,
            std=self.std,
            noise=self.noise,
            dtype=self.dtype,
        )
        return batch, target

    def _warn_of_range(self, images: Tensor) -> None:
        if images.is_cuda and torch.cuda.is_current_stream_capturing() or images.numel() == 0:
            return
        low, high = torch.stack(torch.aminmax(images)).tolist()
        if self.input_normalized or (low > -0.5 and high < 1.5):
            return
        reason = "divide them by 255 or pass uint8" if high > 50 else "set input_normalized_by"
        warnings.warn(
            f"SproutMixup: images are from {low:.3g} to {high:.3g}, expected [0, 1]; if they are "
            f"{'0 to 255' if high > 50 else 'normalized'}, {reason}",
            stacklevel=3,
        )

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}, mixup_alpha={self.mixup_alpha}, noise={self.noise!r}"


def check_option(name: str, value: object, accepted: Sequence[object]) -> None:
    """Raise a ValueError unless ``value`` is one of the values that option ``name`` accepts."""
    if value not in accepted:
        *first, last = map(repr, accepted)
        raise ValueError(f"{name} must be {', '.join(first)} or {last}, got {value!r}")
