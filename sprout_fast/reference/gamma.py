"""Gamma variates in log space and their implicit gradient, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from sprout_fast.reference.philox import STREAM_GAMMA, normal_pair, philox_words, uniform

MAX_DRAWS = 32


def gamma_variates(
    concentration: Tensor,
    rng_state: Tensor,
    *,
    stream: int = STREAM_GAMMA,
    element: Tensor | None = None,
) -> Tensor:
    """log of standard gamma variates by Marsaglia and Tsang (2000), float64, the ops' own draws.

    For a < 1: log G_a = log G_{a+1} + log(U) / a. -inf at a = 0, NaN for a < 0 or NaN.

    Args:
        concentration: any shape; elements are numbered in its order, from first_row x numel / rows.
        rng_state: int64 [3].
        element: the elements' global indices instead, int64 of concentration's shape.
    """
    a = concentration.double()
    if element is None:
        rows = max(a.shape[0], 1) if a.dim() else 1
        first = int(rng_state[2]) * (a.numel() // rows)
        element = first + torch.arange(a.numel()).view(a.shape)
    boosted = torch.where(a < 1, a + 1, a)
    d = boosted - 1 / 3
    c = 1 / (9 * d).sqrt()
    # The boosts' draw comes behind the attempts'; its four words serve a group of four elements.
    words = philox_words(rng_state, stream, element - element % 4, draw=MAX_DRAWS)
    word = words.gather(-1, (element % 4).unsqueeze(-1)).squeeze(-1)
    boost = torch.where(a < 1, uniform(word).log() / a, 0)
    odd = element % 2 == 1  # a draw serves a pair of neighbours, addressed by the even one
    log_g = d.log()  # what MAX_DRAWS rejections would end with
    waiting = torch.ones_like(a, dtype=torch.bool)
    for draw in range(MAX_DRAWS):
        words = philox_words(rng_state, stream, element - element % 2, draw)
        x = torch.where(odd, *reversed(normal_pair(words[..., 0], words[..., 1])))
        u = uniform(torch.where(odd, words[..., 3], words[..., 2]))
        v = (1 + c * x) ** 3
        accepted = (v > 0) & (u.log() < x * x / 2 + d - d * v + d * v.log())
        log_g = torch.where(waiting & accepted, d.log() + v.log(), log_g)
        waiting &= ~accepted
        if not waiting.any():
            break
    log_g = torch.where(a == 0, -torch.inf, log_g + boost)
    return torch.where(a >= 0, log_g, torch.nan)


def log_gamma_gradient(concentration: Tensor, log_gamma: Tensor) -> Tensor:
    """d log G / d a at given variates, by central differences of the gamma CDF; float64.

    ``-(dF(g; a)/da) / (g f(g; a))`` (Figurnov, Mohamed, Mnih, 2018), to about 6 digits where g is
    between the distribution's 1e-4 and 1 - 1e-4 quantiles; where g < 1e-12, where F is
    g^a / Gamma(a + 1) to as many digits, in closed form. Exact values: the tests' mpmath table.
    """
    a, log_x = concentration.double(), log_gamma.double()
    tiny = log_x < -28
    by_leading_term = (torch.digamma(a + 1) - log_x) / a
    log_x = torch.where(tiny, 0, log_x)  # anything: not used there
    h = 1e-4 * a
    # Fourth order; the lower tail's differences lose no digits, the upper one's are of 1 - F.
    upper = log_x.exp() > a
    cdf = torch.where(
        upper,
        -_difference(torch.special.gammaincc, a, log_x.exp(), h),
        _difference(torch.special.gammainc, a, log_x.exp(), h),
    )
    log_density = a * log_x - log_x.exp() - torch.lgamma(a)  # of g f(g)
    return torch.where(tiny, by_leading_term, -cdf / log_density.exp())


def _difference(f, a: Tensor, x: Tensor, h: Tensor) -> Tensor:
    return (8 * (f(a + h, x) - f(a - h, x)) - (f(a + 2 * h, x) - f(a - 2 * h, x))) / (12 * h)
