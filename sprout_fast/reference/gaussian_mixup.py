"""Gaussian noise, Mixup and normalization in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sprout_fast.reference.philox import STREAM_IMAGE_NOISE, normal_pair, philox_words

if TYPE_CHECKING:
    from sprout_fast.ops.gaussian_mixup import Noise


def image_noise(rng_state: Tensor, shape: Sequence[int]) -> Tensor:
    """Draw the standard normals of a batch of shape [B, C, H, W], float64.

    Elements are numbered in channels-last order. Four neighbors share the four words of a Philox
    block, addressed by the first of them.
    """
    b, c, h, w = shape
    element = int(rng_state[2]) * c * h * w + torch.arange(b * c * h * w)
    words = philox_words(rng_state, STREAM_IMAGE_NOISE, element - element % 4)
    pairs = *normal_pair(words[:, 0], words[:, 1]), *normal_pair(words[:, 2], words[:, 3])
    normals = torch.stack(pairs, -1)
    chosen = normals.gather(1, (element % 4).unsqueeze(1))
    return chosen.view(b, h, w, c).permute(0, 3, 1, 2)


def gaussian_mixup(
    images: Tensor,
    partner: Tensor | None,
    lam: Tensor | None,
    rng_state: Tensor,
    *,
    sigma: float | Sequence[float] = 0.1,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    noise: Noise = "marginal",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Compute :func:`sprout_fast.gaussian_mixup` in float64, rounded at the end."""

    def channels(values: float | Sequence[float] | None, default: float) -> Tensor:
        tensor = torch.tensor(default if values is None else values, dtype=torch.float64)
        return tensor.view(-1, 1, 1)

    x = images.double() / 255 if images.dtype == torch.uint8 else images.double()
    n = channels(sigma, 0) * image_noise(rng_state, x.shape)
    if partner is not None and lam is not None:
        weight = lam.double().expand(len(x)).view(-1, 1, 1, 1)
        x = weight * x + (1 - weight) * x[partner]
        if noise == "paired":
            n = weight * n + (1 - weight) * n[partner]
        else:
            own = (partner == torch.arange(len(x))).view(-1, 1, 1, 1)
            n = torch.where(own, 1, (weight**2 + (1 - weight) ** 2).sqrt()) * n
    x = (x + n - channels(mean, 0)) / channels(std, 1)
    return x.to(dtype, memory_format=torch.channels_last)
