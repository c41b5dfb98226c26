"""One step of projected gradient descent in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def _two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return a + b rounded, and the rounding error (Knuth's TwoSum)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def linf_bounds(
    x: Tensor, eps: float, lower: float = 0.0, upper: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return the smallest and largest images in the l-infinity ball around x, in [lower, upper].

    Both are inside the ball exactly: eps is rounded down to the dtype of x, and where x - eps or
    x + eps was rounded outwards, the bound moves one representable number inwards.
    """
    radius = torch.tensor(eps, dtype=x.dtype)
    if radius.item() > eps:
        radius = torch.nextafter(radius, torch.zeros_like(radius))
    low, low_error = _two_sum(x, -radius)
    high, high_error = _two_sum(x, radius)
    low = torch.where(low_error > 0, torch.nextafter(low, x), low)
    high = torch.where(high_error < 0, torch.nextafter(high, x), high)
    return low.clamp(lower, upper), high.clamp(lower, upper)


@torch.no_grad()
def pgd_step_(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    *,
    step: float,
    eps: float,
    lower: float = 0.0,
    upper: float = 1.0,
) -> Tensor:
    """Compute :func:`sprout_fast.pgd_step_` in the dtype of ``x_adv``, bit for bit."""
    moved = x_adv + step * torch.nan_to_num(grad.sign(), nan=0.0).to(x_adv.dtype)
    return x_adv.copy_(moved.clamp(*linf_bounds(x, eps, lower, upper)))
