"""Inputs that the tests of several ops share."""

from __future__ import annotations

import torch
from torch import Tensor

# An rng_state (seed, offset, first_row) with bits in both words of the seed.
STATE = torch.tensor([0x1234_5678_9ABC_DEF0, 7, 3])
# The usual normalization of ImageNet images.
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def random_images(shape, dtype: torch.dtype = torch.uint8, seed: int = 0) -> Tensor:
    """Return a batch of images: uint8 in [0, 256), or floating in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.uint8:
        return torch.randint(256, shape, dtype=dtype, generator=generator)
    return torch.rand(shape, generator=generator).to(dtype)


def mixing(batch: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return partners, among them an image itself, and coefficients that include 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    partner = torch.randint(batch, (batch,), generator=generator)
    partner[0] = 0
    lam = torch.rand(batch, generator=generator)
    lam[-1] = 1.0
    lam[batch // 2] = 0.0
    return partner, lam


def channel_options(channels: int) -> dict[str, list[float]]:
    """Return options of gaussian_mixup that differ between channels."""
    return {
        "sigma": [0.1 + 0.01 * c for c in range(channels)],
        "mean": [0.5 - 0.02 * c for c in range(channels)],
        "std": [0.2 + 0.01 * c for c in range(channels)],
    }


def strided(x: Tensor) -> Tensor:
    """Return the same values with strides of neither layout, in a buffer that ends with them."""
    wide = torch.zeros(*x.shape[:3], 2 * x.shape[3], dtype=x.dtype)
    wide[..., 1::2] = x
    return wide[..., 1::2]


LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "strided": strided,
}
