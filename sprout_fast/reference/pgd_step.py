"""One step of projected gradient descent in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def linf_bounds(
    x: Tensor, eps: float, lower: float = 0.0, upper: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The lowest and highest images of the l-infinity ball around x within [lower, upper].

    Both lie inside it: every floating image between them satisfies |image - x| <= eps in float64
    arithmetic. Where rounding x ± eps to x's dtype fell outside, the bound is moved one
    representable number inwards.
    """
    exact = x.double()
    low, high = (exact - eps).to(x.dtype), (exact + eps).to(x.dtype)
    low = torch.where(exact - low.double() > eps, torch.nextafter(low, x), low)
    high = torch.where(high.double() - exact > eps, torch.nextafter(high, x), high)
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
    """See :func:`sprout_fast.pgd_step_`; in x_adv's own dtype, with which it agrees to the bit."""
    moved = x_adv + step * torch.nan_to_num(grad.sign(), nan=0.0).to(x_adv.dtype)
    return x_adv.copy_(moved.clamp(*linf_bounds(x, eps, lower, upper)))
