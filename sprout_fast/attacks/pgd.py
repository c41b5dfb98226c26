"""Projected gradient descent in the l-infinity and l2 balls (Madry et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sprout_fast.attacks.active import ActiveSet
from sprout_fast.attacks.balls import BALLS, Norm
from sprout_fast.attacks.base import ATTACKS, borrowed, check_count, check_number
from sprout_fast.attacks.losses import LOSSES, Loss
from sprout_fast.attacks.targets import Target, choose_targets

# Factor on the objective. Only the gradient's direction matters, and a network that computes in
# float16 would round small gradients to 0. A power of 2, so that nothing else changes.
_SCALE = 1024.0


@ATTACKS.register("pgd")
def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm = "linf",
    eps: float = 8 / 255,
    step_size: float | None = None,
    steps: int = 10,
    restarts: int = 1,
    random_start: bool = True,
    loss: Loss = "ce",
    target: Target | Tensor | None = None,
    early_stop: bool = True,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> Tensor:
    """Projected gradient descent on a loss of the label.

    x <- project(x + step_size * direction of the loss's gradient), ``steps`` times (eq. 1 of Madry
    et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018). The
    direction is the gradient's sign in the l-inf ball, and the gradient divided by its length in
    the l2 ball. With ``loss="margin"`` it is what the literature calls C&W l-inf.

    An image is misclassified when the model predicts any class but its label, also with a target.

    Args:
        model: maps images in [0, 1] to logits [B, K]. It is evaluated in eval mode; its modes,
            ``requires_grad`` flags and ``.grad`` are left unchanged.
        images: float32 or float64 [B, C, H, W] in [0, 1], any memory format. The attack runs in
            this dtype, outside autocast.
        labels: int64 [B].
        norm: ``"linf"`` or ``"l2"``.
        eps: radius of the ball, >= 0, on images in [0, 1].
        step_size: length of a step, >= 0, on images in [0, 1]. Default: ``eps / 4``.
        steps: number of steps, >= 0.
        restarts: number of runs, >= 1, each with its own random start (and random target), on the
            images that are still correctly classified.
        random_start: start from a uniform point of the ball instead of the image.
        loss: the loss to maximize, a key of :data:`~sprout_fast.attacks.losses.LOSSES`.
        target: classes that the loss should lead to: ``"random"``, uniform among the wrong classes;
            ``"least_likely"``, the wrong class with the smallest logit on the image; or int64 [B].
            Default: untargeted.
        early_stop: stop working on an image as soon as it is misclassified, and return that point.
            False returns the last iterate, that of the first restart in which it is misclassified,
            else that of the last restart: a weaker attack, which papers usually report.
        generator: random numbers, drawn on its own device for all images, misclassified or not.
            Default: a new generator on the images' device.
        seed: seed of that new generator.

    Returns:
        Adversarial images with the shape, dtype and device of ``images``, without a graph. They are
        in [0, 1], and the norm of adversarial - image, computed in float64, is <= eps. A pixel
        whose gradient is 0 or NaN does not move in that step.

    Raises:
        TypeError: images that are not float32 or float64 (divide uint8 images by 255 first).
        ValueError: images outside [0, 1] or not finite, shapes that do not match, an option outside
            its range, a target that is the label, or restarts that would all be the same.
        UserError: unknown norm, loss or target.

    >>> import torch
    >>> model = torch.nn.Flatten()  # the two channels are the logits
    >>> images, labels = torch.full((2, 2, 1, 1), 0.5), torch.tensor([0, 1])
    >>> pgd(model, images, labels, eps=0.25, early_stop=False).squeeze()
    tensor([[0.2500, 0.7500],
            [0.7500, 0.2500]])
    """
    ball, loss_function = BALLS.look_up(norm), LOSSES.look_up(loss)
    check_number("pgd", "eps", eps)
    step_size = eps / 4 if step_size is None else step_size
    check_number("pgd", "step_size", step_size)
    check_count("pgd", "steps", steps)
    check_count("pgd", "restarts", restarts, low=1)
    if restarts > 1 and not random_start and not (isinstance(target, str) and target == "random"):
        raise ValueError(
            f"pgd: restarts: got {restarts}, expected 1 without random_start or target='random': "
            "they would all be the same"
        )
    with borrowed("pgd", model, images, labels, generator, seed) as (images, labels, generator):
        active = ActiveSet(images, labels)
        for restart in range(restarts):
            if len(active) == 0:
                break
            start = ball.uniform(images, eps, generator) if random_start else images
            chosen = choose_targets("pgd", model, images, labels, target, generator)
            points, center = start[active.rows], images[active.rows]
            targets = None if chosen is None else chosen[active.rows]
            for _ in range(steps):
                if len(active) == 0:
                    break

                def objective(logits: Tensor, targets: Tensor | None = targets) -> Tensor:
                    return loss_function(logits, active.labels, targets).sum()

                gradient, logits = input_gradient(model, points, objective)
                if early_stop:
                    kept = active.drop(points, logits)
                    if len(kept) < len(points):
                        points, gradient, center = points[kept], gradient[kept], center[kept]
                        targets = None if targets is None else targets[kept]
                points = ball.step(points, gradient, center, step_size=step_size, eps=eps)
            active.update(points)
            if restart + 1 < restarts and len(active) > 0:
                with torch.no_grad():
                    active.drop(points, model(points))
        return active.adversarial


def input_gradient(
    network: Callable[[Tensor], Tensor], points: Tensor, objective: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return a positive multiple of an objective's gradient with respect to the images.

    Args:
        network: maps images to logits.
        points: images [B, C, H, W].
        objective: maps logits to a scalar, a sum over images: an image's gradient must not depend
            on the batch size.

    Returns:
        The gradient [B, C, H, W] and the logits [B, K], without a graph. The gradient is 0 where
        the logits do not depend on the points through autograd.
    """
    points = points.detach().requires_grad_()
    logits = network(points)
    raised = _SCALE * objective(logits)
    if not raised.requires_grad:
        return torch.zeros_like(points), logits.detach()
    (gradient,) = torch.autograd.grad(raised, points, materialize_grads=True)
    return gradient, logits.detach()
