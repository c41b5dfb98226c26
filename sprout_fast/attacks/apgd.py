"""Auto-PGD: PGD that chooses its own step size (Croce & Hein 2020), two of AutoAttack's four."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from sprout_fast.attacks.active import ActiveSet
from sprout_fast.attacks.balls import BALLS, Ball
from sprout_fast.attacks.base import (
    borrowed,
    check_choice,
    check_count,
    check_number,
    register,
    value_and_gradient,
)
from sprout_fast.attacks.losses import LOSSES, likeliest_wrong

# Section 3.1: alpha of the momentum's convex combination, and rho, the part of the steps between
# checkpoints that must raise the loss for the step size to stay.
_STEP_SHARE = 0.75
_RISING_SHARE = 0.75


@register("apgd_ce")
def apgd_ce(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: str = "linf",
    eps: float = 8 / 255,
    steps: int = 100,
    restarts: int = 1,
    loss: str = "ce",
    random_start: bool = True,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> Tensor:
    """Points within eps of `images` at which the model errs, by Auto-PGD on an untargeted loss.

    Algorithm 1 of Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of
    diverse parameter-free attacks", ICML 2020. An image leaves the batch where the model first
    errs, the others go on; at the end they are where their loss was largest in the last restart.
    The defaults are those of AutoAttack.

    Args:
        model: takes images in [0,1], gives logits [B,K]. In eval mode meanwhile; its modes, its
            requires_grad flags and its parameters' .grad are left as they were.
        images: float32 or float64 [B,C,H,W] in [0,1]. The attack runs in this dtype.
        labels: int64 [B].
        norm: a key of BALLS: "linf" or "l2".
        eps: radius of the ball, >= 0, in [0,1] units.
        steps: >= 0; a run is steps + 1 forward and steps backward passes, after one forward pass
            on the images.
        restarts: >= 1, the first run among them.
        loss: a key of LOSSES.
        random_start: from a uniform point of the ball; otherwise from the image, and every restart
            does the same.
        generator: gives the random starts and is advanced: each run draws for all B images.
            Without one, a fresh generator on the images' device, seeded with `seed`.

    Returns:
        images like `images`, in the ball and in [0,1]; those misclassified to begin with unchanged.

    Raises:
        TypeError, ValueError: see `check_images`; an option outside its range; a loss that needs
            more classes than there are.
        UserError: unknown norm or loss.

    >>> import torch
    >>> model = torch.nn.Flatten()  # the two channels are the logits
    >>> images = torch.tensor([[0.6, 0.4], [0.9, 0.1]])[:, :, None, None]
    >>> found = apgd_ce(model, images, torch.tensor([0, 0]), eps=0.25, steps=5)
    >>> model(found).argmax(1)  # the second is too far from the boundary
    tensor([1, 0])
    """
    name = "apgd_ce"
    _check(name, norm, eps, steps, restarts)
    check_choice(name, "loss", loss, LOSSES)
    with borrowed(name, model, images, labels, generator, seed) as (images, labels, generator):
        if len(images) == 0:
            return images
        active = ActiveSet(images, labels)
        with torch.no_grad():
            active.drop(images, model(images))
        for _ in range(restarts):
            start = BALLS[norm].uniform(images, eps, generator) if random_start else images
            _ascend(model, images, start, active, LOSSES[loss], None, BALLS[norm], eps, steps)
        return active.adversarial


@register("apgd_t")
def apgd_t(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: str = "linf",
    eps: float = 8 / 255,
    steps: int = 100,
    restarts: int = 1,
    target_classes: int = 9,
    random_start: bool = True,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> Tensor:
    """Points within eps of `images` at which the model errs, by Auto-PGD towards one class a run.

    `apgd_ce` on the targeted DLR loss (eq. 7 of Croce & Hein 2020), which no scale of the logits
    changes, for each of the `target_classes` wrong classes that the model finds likeliest at the
    image, likeliest first. It divides by a difference of the four largest logits: models with fewer
    than four classes are attacked by the targeted `margin` loss. An image has fallen where the
    model errs, towards its target or not.

    Args:
        target_classes: >= 1, and at most K - 1 are taken.
        others: as of `apgd_ce`; `restarts` is for each target.

    Returns, raises: as `apgd_ce`; those that stand to the end are at the last target's best.

    >>> import torch
    >>> model = torch.nn.Flatten()  # the channels are the logits
    >>> images = torch.tensor([[0.5, 0.4, 0.3, 0.3], [0.9, 0.2, 0.1, 0.1]])[:, :, None, None]
    >>> found = apgd_t(model, images, torch.tensor([0, 0]), eps=0.25, steps=5)
    >>> model(found).argmax(1)
    tensor([1, 0])
    """
    name = "apgd_t"
    _check(name, norm, eps, steps, restarts)
    check_count(name, "target_classes", target_classes, low=1)
    with borrowed(name, model, images, labels, generator, seed) as (images, labels, generator):
        if len(images) == 0:
            return images
        active = ActiveSet(images, labels)
        with torch.no_grad():
            logits = model(images)
        active.drop(images, logits)
        loss = LOSSES["dlr" if logits.shape[1] >= 4 else "margin"]
        for targets in likeliest_wrong(logits, labels, target_classes).unbind(1):
            for _ in range(restarts):
                start = BALLS[norm].uniform(images, eps, generator) if random_start else images
                _ascend(model, images, start, active, loss, targets, BALLS[norm], eps, steps)
        return active.adversarial


def _check(name: str, norm: str, eps: float, steps: int, restarts: int) -> None:
    check_choice(name, "norm", norm, BALLS)
    check_number(name, "eps", eps)
    check_count(name, "steps", steps)
    check_count(name, "restarts", restarts, low=1)


@dataclass
class _State:
    """Of each image that stands, in the terms of Algorithm 1; f is the loss."""

    centre: Tensor  # [S,C,H,W], x_orig
    points: Tensor  # [S,C,H,W], x^(k)
    previous: Tensor  # [S,C,H,W], x^(k-1)
    gradient: Tensor  # [S,C,H,W], of f at points
    loss: Tensor  # [S], f(x^(k))
    best: Tensor  # [S,C,H,W], x_max
    best_gradient: Tensor  # [S,C,H,W]
    best_loss: Tensor  # [S], f_max
    step_size: Tensor  # [S,1,1,1], eta
    rises: Tensor  # int64 [S], steps since the last checkpoint that raised f
    checked_loss: Tensor  # [S], f_max at the last checkpoint
    halved: Tensor  # bool [S], whether eta was halved there

    def select(self, rows: Tensor) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[rows])


def _ascend(
    model: nn.Module,
    images: Tensor,
    start: Tensor,
    active: ActiveSet,
    loss: Callable[..., Tensor],
    targets: Tensor | None,
    ball: Ball,
    eps: float,
    steps: int,
) -> None:
    """One run of Algorithm 1 for the images that stand; ``targets`` int64 [B] or None."""

    def objective(logits: Tensor) -> Tensor:
        return loss(logits, active.labels, None if targets is None else targets[active.rows])

    if len(active) == 0:
        return
    centre, points = images[active.rows], start[active.rows]
    with torch.set_grad_enabled(steps > 0):
        logits, value, gradient = value_and_gradient(model, points, objective)
    state = _State(
        centre=centre,
        points=points,
        previous=points,
        gradient=gradient,
        loss=value,
        best=points,
        best_gradient=gradient,
        best_loss=value,
        step_size=images.new_full((len(points), 1, 1, 1), 2 * eps),
        rises=torch.zeros_like(active.rows),
        checked_loss=value,
        halved=torch.ones_like(active.rows, dtype=torch.bool),
    )
    _drop(active, state, logits)
    checkpoints = _checkpoints(steps)
    last_checkpoint = 0
    for step in range(1, steps + 1):
        if len(active) == 0:
            return
        ahead = ball.project(
            state.points + state.step_size * ball.direction(state.gradient), state.centre, eps
        )
        if step > 1:  # line 7; the first step has no momentum
            ahead = ball.project(
                state.points
                + _STEP_SHARE * (ahead - state.points)
                + (1 - _STEP_SHARE) * (state.points - state.previous),
                state.centre,
                eps,
            )
        state.previous, state.points = state.points, ahead
        with torch.set_grad_enabled(step < steps):
            logits, value, state.gradient = value_and_gradient(model, ahead, objective)
        state.rises += value > state.loss
        state.loss = value
        _drop(active, state, logits)
        _keep_better(state)
        if step in checkpoints:
            _halve(state, step - last_checkpoint)
            last_checkpoint = step
    active.keep(state.best)


def _drop(active: ActiveSet, state: _State, logits: Tensor) -> None:
    still = active.drop(state.points, logits)
    if len(still) < len(state.points):
        state.select(still)


def _keep_better(state: _State) -> None:
    better = state.loss > state.best_loss
    wide = better[:, None, None, None]
    state.best = torch.where(wide, state.points, state.best)
    state.best_gradient = torch.where(wide, state.gradient, state.best_gradient)
    state.best_loss = torch.where(better, state.loss, state.best_loss)


def _halve(state: _State, steps: int) -> None:
    """Halve eta and go back to x_max where, of the ``steps`` since the last checkpoint, too few
    raised f (condition 1), or where neither eta nor f_max has changed over them (condition 2)."""
    halve = state.rises < _RISING_SHARE * steps
    halve |= ~state.halved & (state.checked_loss >= state.best_loss)
    wide = halve[:, None, None, None]
    state.step_size = torch.where(wide, state.step_size / 2, state.step_size)
    state.points = torch.where(wide, state.best, state.points)
    state.gradient = torch.where(wide, state.best_gradient, state.gradient)
    state.loss = torch.where(halve, state.best_loss, state.loss)
    state.checked_loss, state.halved = state.best_loss, halve
    state.rises = torch.zeros_like(state.rises)


def _checkpoints(steps: int) -> set[int]:
    """w_j = ceil(p_j steps), p_0 = 0, p_1 = 0.22, p_j+1 = p_j + max(p_j - p_j-1 - 0.03, 0.06).

    In hundredths, so that 0.41 * 100 steps is 41.
    """
    found = set()
    before, at = 0, 22
    while at <= 100:
        found.add(-(-at * steps // 100))
        before, at = at, at + max(at - before - 3, 6)
    return found
