"""One step of projected gradient descent in the l-infinity ball, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from sprout_fast.ops._fake import check_one_device


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
    """``x_adv <- clip(x + clip(x_adv + step sign(grad) - x, -eps, eps), lower, upper)``, in place.

    One iteration of PGD (Madry et al., 2018, eq. 1) in one pass over memory. Afterwards
    ``|x_adv - x| <= eps`` holds exactly wherever x is in [lower, upper]: eps and the ball's bounds
    are rounded inwards to numbers of the dtype.

    Args:
        x_adv: float32 or float64, any shape and strides that do not overlap; may be a leaf that
            requires grad. Half precision is not taken: bfloat16's numbers near 1 are 1/256 apart.
        grad: of x_adv's shape; float64, float32, bfloat16 or float16. The sign of 0 is 0, and so is
            that of NaN: such an element only is projected.
        x: of x_adv's shape and dtype, the ball's centre; may be expanded.
        step, eps: finite, >= 0, rounded to x_adv's dtype, eps down.
        lower, upper: the range of images, rounded to x_adv's dtype. Infinite: no bound.

    Returns:
        x_adv itself, without a graph. Where x_adv or x is NaN it is NaN. grad and x may share
        memory with x_adv: they are taken as they were before. Fast for dense tensors of one layout.

    Raises:
        RuntimeError: a wrong shape, dtype, device or scalar, named; an x_adv that overlaps itself.

    >>> x = torch.tensor([0.5, 0.5, 0.5, 0.95])
    >>> pgd_step_(x.clone(), torch.tensor([2.0, -3.0, 0.0, 1.0]), x, step=0.25, eps=0.125)
    tensor([0.6250, 0.3750, 0.5000, 1.0000])
    """
    with torch.no_grad():
        torch.ops.sprout_fast.pgd_step_(
            x_adv.detach(), grad.detach(), x.detach(), step, eps, lower, upper
        )
    if not torch.compiler.is_compiling():  # where it is, the copy into x_adv tells autograd
        torch.autograd.graph.increment_version(x_adv)
    return x_adv


@torch.library.register_fake("sprout_fast::pgd_step_")
def _(x_adv, grad, x, step, eps, lower, upper):
    check_one_device("pgd_step_", x_adv=x_adv, grad=grad, x=x)
