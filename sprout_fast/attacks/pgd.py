"""Projected gradient descent in the l-infinity and l2 balls (Madry et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sprout_fast.attacks.active import ActiveSet
from sprout_fast.attacks.balls import ball_of
from sprout_fast.attacks.base import borrowed, check_count, check_number, register
from sprout_fast.attacks.losses import loss_of
from sprout_fast.attacks.targets import choose_targets

# Of the objective: only the gradient's direction counts, and a network that computes in float16
# would round small gradients to 0. A power of 2, which changes nothing else.
_SCALE = 1024.0


@register("pgd")
def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: str = "linf",
    eps: float = 8 / 255,
    step_size: float | None = None,
    steps: int = 10,
    restarts: int = 1,
    random_start: bool = True,
    loss: str = "ce",
    target: str | Tensor | None = None,
    early_stop: bool = True,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> Tensor:
    """Images in [0,1] within eps of `images`, moved step by step to raise a loss of their labels.

    x <- project(x + step_size * direction of the loss's gradient), `steps` times, from a uniform
    point of the ball (`random_start`) or from the images (eq. 1 of Madry et al., "Towards Deep
    Learning Models Resistant to Adversarial Attacks", ICLR 2018). The direction is the gradient's
    sign in the l-infinity ball, the gradient over its length in the l2 ball. With ``loss="margin"``
    it is what the literature calls C&W l-infinity.

    An image falls where the model errs, also to another class than the target.

    Args:
        model: takes images in [0,1], gives logits [B,K]. In eval mode meanwhile; its modes, its
            requires_grad flags and its parameters' .grad are left as they were.
        images: float32 or float64 [B,C,H,W] in [0,1], any memory format. The attack runs in this
            dtype, outside of any autocast.
        labels: int64 [B].
        norm: "linf" or "l2".
        eps: radius of the ball, >= 0, in [0,1] units.
        step_size: >= 0, in [0,1] units; None is eps/4, at the default eps 2/255.
        steps: >= 0.
        restarts: >= 1; each has its own random start (and target), for the images that stand.
        loss: a key of LOSSES: "ce", "rescaled_ce", "margin" or "dlr".
        target: None raises the loss of the label. Else the class to go for, never the label:
            int64 [B]; "random", uniform among the others; "least_likely", by `model` on `images`.
        early_stop: images leave the batch as they fall, and cost nothing from then on; what is
            returned of them is where they fell. False returns the last iterate, of the first
            restart whose last iterate fooled the model, else of the last: a weaker attack, as
            papers report it.
        generator: gives the random numbers and is advanced; drawn on its own device, for all
            images whether they stand or not. Without one, a fresh generator on the images' device,
            seeded with `seed`.

    Returns:
        adversarial images, of the shape, dtype and device of `images`, without a graph. Of every
        image the length of adversarial - image, computed in float64, is <= eps, and it lies in
        [0,1]. A pixel whose gradient is 0 or NaN stays where it is in that step.

    Raises:
        TypeError: images of another dtype (uint8 images: divide by 255 first).
        ValueError: images outside [0,1] or not finite, shapes that do not fit, a number outside
            its range, a target that is the label, restarts that would all do the same.
        UserError: unknown norm, loss or target.

    >>> import torch
    >>> model = torch.nn.Flatten()  # the two channels are the logits
    >>> images, labels = torch.full((2, 2, 1, 1), 0.5), torch.tensor([0, 1])
    >>> pgd(model, images, labels, eps=0.25, early_stop=False).squeeze()
    tensor([[0.2500, 0.7500],
            [0.7500, 0.2500]])
    """
    ball, loss_function = ball_of(norm), loss_of(loss)
    check_number("pgd", "eps", eps)
    step_size = eps / 4 if step_size is None else step_size
    check_number("pgd", "step_size", step_size)
    check_count("pgd", "steps", steps)
    check_count("pgd", "restarts", restarts, low=1)
    if restarts > 1 and not random_start and not (isinstance(target, str) and target == "random"):
        raise ValueError(
            f"pgd: restarts: got {restarts} that would all do the same, takes 1 without "
            'random_start or target="random"'
        )
    with borrowed("pgd", model, images, labels, generator, seed) as (images, labels, generator):
        active = ActiveSet(images, labels)
        for restart in range(restarts):
            if len(active) == 0:
                break
            start = ball.uniform(images, eps, generator) if random_start else images
            chosen = choose_targets("pgd", model, images, labels, target, generator)
            points, centre = start[active.rows], images[active.rows]
            targets = None if chosen is None else chosen[active.rows]
            for _ in range(steps):
                if len(active) == 0:
                    break

                def objective(logits: Tensor, targets: Tensor | None = targets) -> Tensor:
                    return loss_function(logits, active.labels, targets).sum()

                gradient, logits = input_gradient(model, points, objective)
                if early_stop:
                    still = active.drop(points, logits)
                    if len(still) < len(points):
                        points, gradient, centre = points[still], gradient[still], centre[still]
                        targets = None if targets is None else targets[still]
                points = ball.step(points, gradient, centre, step_size=step_size, eps=eps)
            active.keep(points)
            if restart + 1 < restarts and len(active) > 0:
                with torch.no_grad():
                    active.drop(points, model(points))
        return active.adversarial


def input_gradient(
    network: Callable[[Tensor], Tensor], points: Tensor, objective: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """A positive multiple of the gradient of ``objective(network(points))`` to points; the logits.

    Args:
        network: images -> logits.
        points: [B,C,H,W].
        objective: logits -> a scalar, the sum over images: one image's gradient must not shrink
            with the batch that it is in.

    Returns:
        (gradient [B,C,H,W], logits [B,K]), without a graph. The gradient is 0 where the logits do
        not depend on the points by way of autograd.
    """
    points = points.detach().requires_grad_()
    logits = network(points)
    raised = _SCALE * objective(logits)
    if not raised.requires_grad:
        return torch.zeros_like(points), logits.detach()
    (gradient,) = torch.autograd.grad(raised, points, materialize_grads=True)
    return gradient, logits.detach()
