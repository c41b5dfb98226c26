"""Philox4x32-10 and the numbers made from it, in int64 and float64 arithmetic."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
STREAM_IMAGE_NOISE, STREAM_GAMMA, STREAM_MIXUP = 0, 1, 2


def _multiply(constant: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of constant x word, by 16-bit halves so that int64 never overflows."""
    low = constant * (word & 0xFFFF)
    high = constant * (word >> 16)
    middle = (low >> 16) + (high & 0xFFFF_FFFF_FFFF)  # < 2^49
    return (middle >> 16) & _MASK, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)


def philox4x32_10(counter: list[Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Ten rounds of Philox4x32 (Salmon et al., SC 2011) on four int64 tensors of 32-bit words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _multiply(0xD2511F53, c0)
        high1, low1 = _multiply(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return [c0, c1, c2, c3]


def philox_words(rng_state: Tensor, stream: int, element: Tensor, draw: int = 0) -> Tensor:
    """The four words of each element's draw, int64 [..., 4] holding 32-bit values.

    Args:
        rng_state: int64 [3] = (seed, offset, first_row).
        stream: 0 image noise, 1 gamma, 2 Mixup.
        element: int64, the global element index (first_row x elements a row already added).
        draw: number of the draw for this element.
    """
    seed, offset, _ = rng_state.tolist()
    counter = [
        element & _MASK,
        ((element >> 32) & 0xFFFFFF) | (stream << 24),
        torch.full_like(element, draw),
        torch.full_like(element, offset & _MASK),
    ]
    return torch.stack(philox4x32_10(counter, (seed & _MASK, (seed >> 32) & _MASK)), -1)


def uniform(words: Tensor) -> Tensor:
    """(w + 1/2) / 2^32 in float64: never 0 or 1."""
    return (words.double() + 0.5) / 2**32


def normal_pair(radius_words: Tensor, angle_words: Tensor) -> tuple[Tensor, Tensor]:
    """Two standard normals (Box and Muller), float64."""
    radius = (-2 * uniform(radius_words).log()).sqrt()
    angle = angle_words.double() * (2 * math.pi / 2**32)
    return radius * angle.cos(), radius * angle.sin()
