"""Logarithms of gamma variates, with their implicit gradient, in plain PyTorch and float64."""

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
    """Draw the logarithms of standard gamma variates (Marsaglia and Tsang, 2000), as the ops do.

    ``element`` has the elements' global indices; by default, their flat index plus ``first_row *
    numel / rows``. The result is -inf where the concentration is 0, NaN where it is negative.
    """
    a = concentration.double()
    if element is None:
        rows = max(a.shape[0], 1) if a.dim() else 1
        first = int(rng_state[2]) * (a.numel() // rows)
        element = first + torch.arange(a.numel()).view(a.shape)
    d = torch.where(a < 1, a + 1, a) - 1 / 3  # log G_a = log G_{a+1} + log(U) / a for a < 1
    c = 1 / (9 * d).sqrt()
    # The draw for U follows those of all attempts; its four words serve four elements.
    words = philox_words(rng_state, stream, element - element % 4, draw=MAX_DRAWS)
    word = words.gather(-1, (element % 4).unsqueeze(-1)).squeeze(-1)
    boost = torch.where(a < 1, uniform(word).log() / a, 0)
    odd = element % 2 == 1  # a draw serves a pair of neighbors, addressed by the even one
    log_g = d.log()  # the result after MAX_DRAWS rejections
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
    """Compute d log G / da at given variates by central differences of the gamma CDF, in float64.

    The implicit gradient ``-(dF(g; a)/da) / (g * f(g; a))`` (Figurnov et al., 2018), to about 6
    digits for g between the 1e-4 and 1 - 1e-4 quantiles. For g < 1e-12, where F is
    g^a / Gamma(a + 1) to that precision, the closed form is used. ``concentration`` (a) and
    ``log_gamma`` (log G) are of one shape, the result's.
    """
    a, log_x = concentration.double(), log_gamma.double()
    tiny = log_x < -28
    by_leading_term = (torch.digamma(a + 1) - log_x) / a
    log_x = torch.where(tiny, 0, log_x)  # any value: the result is not used
    h = 1e-4 * a
    # Fourth order. In the upper tail 1 - F is differenced, so that no digits cancel.
    upper = log_x.exp() > a
    cdf = torch.where(
        upper,
        -_difference(torch.special.gammaincc, a, log_x.exp(), h),
        _difference(torch.special.gammainc, a, log_x.exp(), h),
    )
    log_density = a * log_x - log_x.exp() - torch.lgamma(a)  # log(g f(g))
    return torch.where(tiny, by_leading_term, -cdf / log_density.exp())


def _difference(f, a: Tensor, x: Tensor, h: Tensor) -> Tensor:
    return (8 * (f(a + h, x) - f(a - h, x)) - (f(a + 2 * h, x) - f(a - 2 * h, x))) / (12 * h)


class _LogGamma(torch.autograd.Function):
    @staticmethod
    def forward(ctx, concentration: Tensor, rng_state: Tensor) -> Tensor:
        log_g = gamma_variates(concentration, rng_state)
        ctx.save_for_backward(concentration, log_g)
        return log_g

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (grad,) = grad_outputs
        concentration, log_g = ctx.saved_tensors
        # Where z underflows, grad is 0 and the other factor may be infinite.
        nothing = (grad == 0) | (log_g == -torch.inf)
        weight = torch.where(nothing, 0, log_gamma_gradient(concentration, log_g))
        return (grad * weight).to(concentration.dtype), None


def log_gamma(concentration: Tensor, rng_state: Tensor) -> Tensor:
    """Compute :func:`sprout_fast.log_gamma` in float64."""
    return _LogGamma.apply(concentration, rng_state)
