"""Projected gradient descent in the l-infinity, l2 and l1 balls (Madry et al. 2018)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from sprout_fast.attacks.active import ActiveSet
from sprout_fast.attacks.balls import BALLS, Norm
from sprout_fast.attacks.base import ATTACKS, borrowed, check_floats, check_ints, value_and_gradient
from sprout_fast.attacks.losses import LOSSES, Loss
from sprout_fast.errors import UserError

Target = Literal["random", "least_likely"]


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
    eot_iter: int = 1,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> Tensor:
    """Maximize a loss of the label by projected gradient ascent.

    x <- project(x + step_size * direction of the loss's gradient), ``steps`` times (eq. 1 of Madry
    et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018). The
    direction is the gradient's sign in the l-inf ball, and the gradient divided by its length in
    the l2 ball. In the l1 ball a step moves the pixels with the largest gradients to the border of
    [0, 1], as many as ``step_size`` allows (Croce & Hein, "Mind the box", ICML 2021). With
    ``loss="margin"`` it is what the literature calls C&W l-inf.

    An image is misclassified when the model predicts any class but its label, also with a target.

    Args:
        model: maps images in [0, 1] to logits [B, K]. It is evaluated in eval mode; its modes,
            ``requires_grad`` flags and ``.grad`` are left unchanged.
        images: float32 or float64 [B, C, H, W] in [0, 1], any memory format. The attack runs in
            this dtype, outside autocast.
        labels: int64 [B].
        norm: ``"linf"``, ``"l2"`` or ``"l1"``.
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
        eot_iter: number of forward and backward passes per step, >= 1. Their mean loss and gradient
            are used: expectation over transformation (Athalye et al. 2018), for models that draw
            random numbers.
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
            its range, a target that is the label, restarts that would all be the same, or a loss
            that needs more classes than there are.
        UserError: unknown norm, loss or target.

    >>> model = torch.nn.Flatten()  # the two channels are the logits
    >>> images, labels = torch.full((2, 2, 1, 1), 0.5), torch.tensor([0, 1])
    >>> pgd(model, images, labels, eps=0.25, early_stop=False).squeeze()
    tensor([[0.2500, 0.7500],
            [0.7500, 0.2500]])
    """
    ball, loss_function = BALLS.look_up(norm), LOSSES.look_up(loss)
    step_size = eps / 4 if step_size is None else step_size
    check_floats("pgd", eps=eps, step_size=step_size)
    check_ints("pgd", 0, steps=steps)
    check_ints("pgd", 1, restarts=restarts, eot_iter=eot_iter)
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
            targets = _choose_targets(model, images, labels, target, generator)
            points, center = start[active.rows], images[active.rows]

            def value(logits: Tensor, targets: Tensor | None = targets) -> Tensor:
                of_active = None if targets is None else targets[active.rows]
                return loss_function(logits, active.labels, of_active)

            for _ in range(steps):
                if len(active) == 0:
                    break
                logits, _, gradient = value_and_gradient(
                    model, points, value, scaled=True, eot_iter=eot_iter
                )
                if early_stop:
                    kept = active.drop(points, logits)
                    if len(kept) < len(points):
                        points, gradient, center = points[kept], gradient[kept], center[kept]
                points = ball.step(points, gradient, center, step_size=step_size, eps=eps)
            active.update(points)
            if restart + 1 < restarts and len(active) > 0:
                with torch.no_grad():
                    active.drop(points, model(points))
        return active.adversarial


def _choose_targets(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    target: Target | Tensor | None,
    generator: torch.Generator,
) -> Tensor | None:
    """Return the classes that :func:`pgd`'s option ``target`` describes, int64 [B], or None."""
    if target is None:
        return None
    if isinstance(target, Tensor):
        if target.dtype != torch.int64:
            raise TypeError(f"pgd: target: got {target.dtype}, expected int64")
        if target.shape != labels.shape:
            raise ValueError(
                f"pgd: target: got {list(target.shape)}, expected {list(labels.shape)}"
            )
        same = (target == labels).nonzero().flatten()
        if len(same) > 0:
            raise ValueError(
                f"pgd: target: got the label itself for {len(same)} images "
                f"(image {same[0]}: class {labels[same[0]]}), expected other classes"
            )
        return target.clone()
    if target not in get_args(Target):
        raise UserError(
            f"pgd: target: got {target!r}, expected one of {', '.join(get_args(Target))}, "
            "classes or None"
        )
    with torch.no_grad():
        if target == "least_likely":
            return model(images).scatter(1, labels[:, None], torch.inf).argmin(1)
        classes = model(images[:1]).shape[1]
    if classes < 2:
        raise ValueError(f"pgd: target: got a model of {classes} class, expected at least 2")
    device = generator.device
    drawn = torch.randint(1, classes, labels.shape, generator=generator, device=device)
    return (labels + drawn.to(labels.device)) % classes
