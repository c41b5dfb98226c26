"""One step of projected gradient descent in an l-infinity ball, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from sprout_fast.ops._shared import check_one_device


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
    """Take one step of PGD in the l-infinity ball around ``x``, in place (Madry et al., 2018).

    ``x_adv <- clip(x + clip(x_adv + step * sign(grad) - x, -eps, eps), lower, upper)`` in one pass
    over memory. Afterwards ``|x_adv - x| <= eps`` holds exactly wherever ``x`` is in
    [lower, upper]: ``eps`` and the bounds of the ball are rounded inwards to the dtype.

    Args:
        x_adv: float32 or float64, any shape and strides without overlap; may be a leaf that
            requires grad. Half precision is not supported: bfloat16 numbers near 1 are 1/256 apart.
        grad: float64, float32, bfloat16 or float16, of the shape of ``x_adv``. The sign of 0 and of
            NaN is 0: such elements are only projected.
        x: center of the ball, of the shape and dtype of ``x_adv``; may be expanded.
        step, eps: step size and radius of the ball, finite and nonnegative. Rounded to the dtype of
            ``x_adv``, ``eps`` downwards.
        lower, upper: range of valid images, rounded to the dtype of ``x_adv``; infinite for no
            bound.

    Returns:
        ``x_adv``, without a graph; NaN where ``x_adv`` or ``x`` is NaN. ``grad`` and ``x`` may
        share memory with ``x_adv``: their values before the call are used. Fastest for dense
        tensors of one layout.

    Raises:
        RuntimeError: An argument has a wrong shape, dtype, device or value, or ``x_adv`` overlaps
            itself; the message names the argument.

    Example:
        >>> x = torch.tensor([0.5, 0.5, 0.5, 0.95])
        >>> pgd_step_(x.clone(), torch.tensor([2.0, -3.0, 0.0, 1.0]), x, step=0.25, eps=0.125)
        tensor([0.6250, 0.3750, 0.5000, 1.0000])
    """
    with torch.no_grad():
        tensors = x_adv.detach(), grad.detach(), x.detach()
        torch.ops.sprout_fast.pgd_step_(*tensors, step, eps, lower, upper)
    if not torch.compiler.is_compiling():  # otherwise the traced copy does it
        torch.autograd.graph.increment_version(x_adv)
    return x_adv


@torch.library.register_fake("sprout_fast::pgd_step_")
def _(x_adv, grad, x, step, eps, lower, upper):
    check_one_device("pgd_step_", x_adv=x_adv, grad=grad, x=x)
