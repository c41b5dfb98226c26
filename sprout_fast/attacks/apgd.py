"""Auto-PGD, which chooses its own step size: two of AutoAttack's four attacks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from sprout_fast.attacks.active import ActiveSet
from sprout_fast.attacks.apgd_l1 import ascend_l1
from sprout_fast.attacks.balls import BALLS, Norm
from sprout_fast.attacks.base import ATTACKS, borrowed, check_floats, check_ints, value_and_gradient
from sprout_fast.attacks.losses import LOSSES, Loss, likeliest_wrong

# Section 3.1: alpha, the weight of the gradient step against momentum, and rho, the share of the
# steps between two checkpoints that must increase the loss, or the step size is halved.
_STEP_SHARE = 0.75
_RISING_SHARE = 0.75


@ATTACKS.register("apgd_ce")
def apgd_ce(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm = "linf",
    eps: float = 8 / 255,
    steps: int = 100,
    restarts: int = 1,
    loss: Loss = "ce",
    random_start: bool = True,
    eot_iter: int = 1,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> Tensor:
    """Auto-PGD on an untargeted loss.

    Algorithm 1 of Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of
    diverse parameter-free attacks", ICML 2020: PGD with momentum that halves its step size when the
    loss stops increasing. An image leaves the batch as soon as it is misclassified. The defaults
    are AutoAttack's.

    In the l1 ball it is l1-APGD (Croce & Hein, "Mind the box: l1-APGD for sparse adversarial
    attacks on image classifiers", ICML 2021): a step moves the pixels with the largest gradients,
    their number and the step size adapt, and the ball shrinks from three times the radius.

    Args:
        steps: number of steps, >= 0. A run is ``steps + 1`` forward and ``steps`` backward passes;
            the attack begins with one forward pass on the images. In the l1 ball a run has two
            more of each.
        restarts: number of runs, >= 1, on the images that are still correctly classified.
        random_start: start from a uniform point of the ball, in the l1 ball from Gaussian noise,
            projected. False starts from the image, and makes all restarts the same.
        eot_iter: number of forward and backward passes per step, >= 1. Their mean loss and gradient
            are used: expectation over transformation (Athalye et al. 2018), for models that draw
            random numbers.

    Other arguments and errors are those of :func:`~sprout_fast.attacks.pgd.pgd`.

    Returns:
        Images of the same shape and dtype in the ball and in [0, 1]: the first point that is
        misclassified, else the point of the largest loss in the last restart. Images that are
        misclassified to begin with are returned unchanged.

    >>> model = torch.nn.Flatten()  # the two channels are the logits
    >>> images = torch.tensor([[0.6, 0.4], [0.9, 0.1]])[:, :, None, None]
    >>> found = apgd_ce(model, images, torch.tensor([0, 0]), eps=0.25, steps=5)
    >>> model(found).argmax(1)  # the second image is too far from the boundary
    tensor([1, 0])
    """
    _check("apgd_ce", norm, eps, steps, restarts, eot_iter)
    objective = LOSSES.look_up(loss)
    with borrowed("apgd_ce", model, images, labels, generator, seed) as (images, labels, generator):
        if len(images) == 0:
            return images
        active = ActiveSet(images, labels)
        with torch.no_grad():
            active.drop(images, model(images))
        for _ in range(restarts):
            noise = generator if random_start else None
            _ascend(model, images, active, objective, None, norm, eps, steps, noise, eot_iter)
        return active.adversarial


@ATTACKS.register("apgd_t")
def apgd_t(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm = "linf",
    eps: float = 8 / 255,
    steps: int = 100,
    restarts: int = 1,
    target_classes: int = 9,
    random_start: bool = True,
    eot_iter: int = 1,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> Tensor:
    """Auto-PGD toward one target class per run.

    It is :func:`apgd_ce` with the targeted DLR loss (eq. 7 of Croce & Hein 2020), which does not
    change with the logits' scale, for each of the ``target_classes`` wrong classes with the largest
    logits on the image, largest first. That loss needs the four largest logits: models with fewer
    than four classes are attacked with the targeted ``margin`` loss. An image is misclassified when
    the model predicts any class but its label, target or not.

    Args:
        restarts: number of runs for each target, >= 1.
        target_classes: number of targets, >= 1; at most K - 1 are used.

    Other arguments, the result and errors are those of :func:`apgd_ce`.

    >>> model = torch.nn.Flatten()  # the channels are the logits
    >>> images = torch.tensor([[0.5, 0.4, 0.3, 0.3], [0.9, 0.2, 0.1, 0.1]])[:, :, None, None]
    >>> found = apgd_t(model, images, torch.tensor([0, 0]), eps=0.25, steps=5)
    >>> model(found).argmax(1)
    tensor([1, 0])
    """
    _check("apgd_t", norm, eps, steps, restarts, eot_iter)
    check_ints("apgd_t", 1, target_classes=target_classes)
    with borrowed("apgd_t", model, images, labels, generator, seed) as (images, labels, generator):
        if len(images) == 0:
            return images
        active = ActiveSet(images, labels)
        with torch.no_grad():
            logits = model(images)
        active.drop(images, logits)
        loss = LOSSES["dlr" if logits.shape[1] >= 4 else "margin"]
        for targets in likeliest_wrong(logits, labels, target_classes).unbind(1):
            for _ in range(restarts):
                noise = generator if random_start else None
                _ascend(model, images, active, loss, targets, norm, eps, steps, noise, eot_iter)
        return active.adversarial


def _check(name: str, norm: str, eps: float, steps: int, restarts: int, eot_iter: int) -> None:
    BALLS.look_up(norm)
    check_floats(name, eps=eps)
    check_ints(name, 0, steps=steps)
    check_ints(name, 1, restarts=restarts, eot_iter=eot_iter)


@dataclass
class _State:
    """The state of the active images, in the terms of Algorithm 1; f is the loss."""

    center: Tensor  # [A,C,H,W], x_orig
    points: Tensor  # [A,C,H,W], x^(k)
    previous: Tensor  # [A,C,H,W], x^(k-1)
    gradient: Tensor  # [A,C,H,W], of f at points
    loss: Tensor  # [A], f(x^(k))
    best: Tensor  # [A,C,H,W], x_max
    best_gradient: Tensor  # [A,C,H,W]
    best_loss: Tensor  # [A], f_max
    step_size: Tensor  # [A,1,1,1], eta
    rises: Tensor  # int64 [A], steps since the last checkpoint that increased f
    checked_loss: Tensor  # [A], f_max at the last checkpoint
    halved: Tensor  # bool [A], whether eta was halved there

    def select(self, rows: Tensor) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[rows])


def _ascend(
    model: nn.Module,
    images: Tensor,
    active: ActiveSet,
    loss: Callable[..., Tensor],
    targets: Tensor | None,
    norm: Norm,
    eps: float,
    steps: int,
    generator: torch.Generator | None,
    eot_iter: int = 1,
) -> None:
    """Run the attack once on the active images, from a random start if there is a ``generator``.

    In the linf and l2 balls it is Algorithm 1. ``targets`` is int64 [B] or None.
    """

    def objective(logits: Tensor) -> Tensor:
        return loss(logits, active.labels, None if targets is None else targets[active.rows])

    evaluate = functools.partial(value_and_gradient, model, value=objective, eot_iter=eot_iter)
    if norm == "l1":
        ascend_l1(images, active, evaluate, eps, steps, generator)
        return
    ball = BALLS[norm]
    start = images if generator is None else ball.uniform(images, eps, generator)
    if len(active) == 0:
        return
    center, points = images[active.rows], start[active.rows]
    with torch.set_grad_enabled(steps > 0):
        logits, value, gradient = evaluate(points)
    state = _State(
        center=center,
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
            state.points + state.step_size * ball.direction(state.gradient), state.center, eps
        )
        if step > 1:  # line 7; the first step has no momentum
            ahead = ball.project(
                state.points
                + _STEP_SHARE * (ahead - state.points)
                + (1 - _STEP_SHARE) * (state.points - state.previous),
                state.center,
                eps,
            )
        state.previous, state.points = state.points, ahead
        with torch.set_grad_enabled(step < steps):
            logits, value, state.gradient = evaluate(ahead)
        state.rises += value > state.loss
        state.loss = value
        _drop(active, state, logits)
        _keep_better(state)
        if step in checkpoints:
            _halve(state, step - last_checkpoint)
            last_checkpoint = step
    active.update(state.best)


def _drop(active: ActiveSet, state: _State, logits: Tensor) -> None:
    kept = active.drop(state.points, logits)
    if len(kept) < len(state.points):
        state.select(kept)


def _keep_better(state: _State) -> None:
    better = state.loss > state.best_loss
    wide = better[:, None, None, None]
    state.best = torch.where(wide, state.points, state.best)
    state.best_gradient = torch.where(wide, state.gradient, state.best_gradient)
    state.best_loss = torch.where(better, state.loss, state.best_loss)


def _halve(state: _State, steps: int) -> None:
    """Halve eta and return to x_max where progress since the last checkpoint was too small.

    That is where too few of the ``steps`` since then increased f (condition 1), or neither eta nor
    f_max has changed (condition 2).
    """
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
    """Return w_j = ceil(p_j steps), p_j+1 = p_j + max(p_j - p_j-1 - 0.03, 0.06), from 0 and 0.22.

    It is computed in integer hundredths, because a rounding error in p_j would raise the ceiling.
    """
    found = set()
    before, at = 0, 22
    while at <= 100:
        found.add(-(-at * steps // 100))
        before, at = at, at + max(at - before - 3, 6)
    return found
