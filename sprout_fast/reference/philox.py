"""Philox4x32-10 and the random numbers derived from it, in int64 and float64 arithmetic."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
STREAM_IMAGE_NOISE, STREAM_GAMMA, STREAM_MIXUP = 0, 1, 2


def _multiply(constant: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """Return the high and low words of constant * word, by halves so that int64 cannot overflow."""
    low = constant * (word & 0xFFFF)
    high = constant * (word >> 16)
    middle = (low >> 16) + (high & 0xFFFF_FFFF_FFFF)  # < 2^49
    return (middle >> 16) & _MASK, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)


def philox4x32_10(counter: list[Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Apply ten rounds of Philox4x32 (Salmon et al., 2011) to int64 tensors of 32-bit words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _multiply(0xD2511F53, c0)
        high1, low1 = _multiply(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return [c0, c1, c2, c3]


def philox_words(rng_state: Tensor, stream: int, element: Tensor, draw: int = 0) -> Tensor:
    """Return the four 32-bit words of the given draw for each element, int64 [..., 4].

    ``rng_state`` is int64 [3], (seed, offset, first_row); ``stream`` is 0 for image noise, 1 for
    gamma variates, 2 for Mixup; ``element`` has global indices, which include ``first_row``, int64.
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
    """Map 32-bit words to (w + 1/2) / 2^32 in float64, which is never 0 or 1."""
    return (words.double() + 0.5) / 2**32


def normal_pair(radius_words: Tensor, angle_words: Tensor) -> tuple[Tensor, Tensor]:
    """Map pairs of 32-bit words to two standard normals (Box and Muller), float64."""
    radius = (-2 * uniform(radius_words).log()).sqrt()
    angle = angle_words.double() * (2 * math.pi / 2**32)
    return radius * angle.cos(), radius * angle.sin()
