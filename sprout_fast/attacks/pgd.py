"""Projected gradient descent in the l-infinity ball (Madry et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sprout_fast.attacks.base import borrowed, check_count, check_number, register
from sprout_fast.ops import pgd_step_

# Of the objective: only the gradient's sign counts, and under autocast to float16 small gradients
# would be rounded to 0. A power of 2, which changes nothing else.
_SCALE = 1024.0


@register("pgd")
def pgd_linf(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float = 8 / 255,
    step_size: float = 2 / 255,
    steps: int = 10,
    random_start: bool = True,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> Tensor:
    """Images in [0,1] within eps of `images`, moved to raise the cross entropy of their labels.

    x <- clip(x + step_size * sign(grad of the loss), images ± eps, [0,1]), `steps` times, from a
    uniform point of the ball (`random_start`) or from the images. Untargeted; the last iterate is
    returned (eq. 1 of Madry et al., "Towards Deep Learning Models Resistant to Adversarial
    Attacks", ICLR 2018).

    Args:
        model: takes images in [0,1], gives logits [B,K]. In eval mode meanwhile; its modes, its
            requires_grad flags and its parameters' .grad are left as they were.
        images: float32 or float64 [B,C,H,W] in [0,1], any memory format. The attack runs in this
            dtype, outside of any autocast.
        labels: int64 [B].
        eps, step_size: >= 0, in [0,1] units.
        steps: >= 0.
        generator: gives the random start and is advanced; drawn on its own device. Without one, a
            fresh generator on the images' device, seeded with `seed`.

    Returns:
        adversarial images, of the shape, dtype and device of `images`, without a graph. Of every
        element, |adversarial - image| computed in float64 is <= eps exactly, and it lies in [0,1].
        A pixel whose gradient is 0 or NaN stays where it is in that step.

    Raises:
        TypeError: images of another dtype (uint8 images: divide by 255 first).
        ValueError: images outside [0,1] or not finite, shapes that do not fit, a negative or
            non-finite eps or step_size, negative steps.

    >>> import torch
    >>> model = torch.nn.Flatten()  # the two channels are the logits
    >>> images, labels = torch.full((2, 2, 1, 1), 0.5), torch.tensor([0, 1])
    >>> pgd_linf(model, images, labels, eps=0.25, step_size=0.25).squeeze()
    tensor([[0.2500, 0.7500],
            [0.7500, 0.2500]])
    """
    check_number("pgd", "eps", eps)
    check_number("pgd", "step_size", step_size)
    check_count("pgd", "steps", steps)
    with borrowed("pgd", model, images, labels, generator, seed) as (images, labels, generator):
        start = images.clone()
        if random_start:
            start = uniform_start(images, eps, generator)

        def objective(logits: Tensor) -> Tensor:
            # A sum: one image's gradient does not shrink with the batch that it is in.
            return F.cross_entropy(logits, labels, reduction="sum")

        return ascend_linf(
            model, images, start, objective, eps=eps, step_size=step_size, steps=steps
        )


def uniform_start(images: Tensor, eps: float, generator: torch.Generator | None = None) -> Tensor:
    """A uniform point of the ball of ``eps`` around each of ``images``, within [0,1].

    Drawn on the generator's device; None takes torch's own on the images' device.
    """
    drawn_on = images.device if generator is None else generator.device
    noise = torch.rand(images.shape, generator=generator, device=drawn_on, dtype=images.dtype)
    noise = noise.mul_(2 * eps).sub_(eps).to(images.device)
    return pgd_step_(images + noise, noise, images, step=0, eps=eps)  # projects


def ascend_linf(
    network: Callable[[Tensor], Tensor],
    images: Tensor,
    start: Tensor,
    objective: Callable[[Tensor], Tensor],
    *,
    eps: float,
    step_size: float,
    steps: int,
) -> Tensor:
    """Sign-gradient ascent of ``objective(network(x))`` from ``start``, in the ball and [0,1].

    What `pgd_linf` and the attacks within training are made of; it checks nothing.

    Args:
        network: images -> logits.
        images, start: float32 or float64 [B,C,H,W]; the ball is around ``images``.
        objective: logits -> a scalar, to be raised.
        eps, step_size, steps: see `pgd_linf`.

    Returns:
        the last iterate, without a graph.
    """
    adversarial = start.clone()  # the steps below are in place
    for _ in range(steps):
        adversarial = adversarial.detach().requires_grad_()
        raised = _SCALE * objective(network(adversarial))
        (gradient,) = torch.autograd.grad(raised, adversarial)
        adversarial = pgd_step_(adversarial.detach(), gradient, images, step=step_size, eps=eps)
    return adversarial
