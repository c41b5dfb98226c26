"""Auto-PGD in the l1 ball, which has its own step, step size and start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from sprout_fast.attacks.active import ActiveSet
from sprout_fast.attacks.balls import BALLS

# Factors of eps by which the ball is larger in each part of a run, and the parts' shares of the
# steps, in tenths.
_SCHEDULE = ((3, 3), (2, 3), (1, 4))
# The share of the pixels that the first step moves if the start says nothing, and the factor by
# which fewer pixels move than differ from the image at the best point.
_FIRST_SHARE = 0.2
_SPARSER = 1.5
# The step size is divided by this unless the best point has become sparser, which is if fewer than
# 95 % of its pixels still differ from the image. It is eps to begin with and eps/10 at least.
_SMALLER = 1.5
_STILL_SPARSER = 0.95
_SMALLEST = 10
# Steps between two checkpoints, in percent of a part's steps.
_CHECKPOINT = 4


@dataclass
class _State:
    """The state of the active images; f is the loss."""

    points: Tensor  # [A,C,H,W]
    gradient: Tensor  # [A,C,H,W], of f at points
    best: Tensor  # [A,C,H,W], where f was largest
    best_gradient: Tensor  # [A,C,H,W]
    best_loss: Tensor  # [A]
    step_size: Tensor  # [A,1]
    moving: Tensor  # int64 [A,1], how many pixels a step moves
    differing: Tensor  # int64 [A,1], how many pixels of best differed at the last checkpoint

    def select(self, rows: Tensor) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[rows])


def ascend_l1(
    images: Tensor,
    active: ActiveSet,
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
    eps: float,
    steps: int,
    generator: torch.Generator | None,
) -> None:
    """Run l1-APGD once on the active images.

    Croce & Hein, "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers", ICML
    2021: a step moves only the pixels with the largest gradients, at first many and then fewer, all
    by the same amount. The first 30 % of the steps are in a ball of three times the radius, the
    next 30 % in one of twice the radius.

    Args:
        evaluate: maps points [A, C, H, W] of the active images to what
            :func:`~sprout_fast.attacks.base.value_and_gradient` returns.
        generator: draws the start, Gaussian noise projected onto the first ball; None starts from
            the image.
    """
    ball = BALLS["l1"]
    points = images
    if generator is not None:
        drawn = torch.randn(
            images.shape, generator=generator, device=generator.device, dtype=images.dtype
        )
        points = images + drawn.to(images.device)
    points = points[active.rows]
    parts = [(factor, -(-share * steps // 10)) for factor, share in _SCHEDULE[:-1]]
    last = steps - sum(count for _, count in parts)
    parts = [*parts, (1, last)] if last > 0 else [(1, steps)]
    for factor, count in parts:
        if len(active) == 0:
            return
        center = images[active.rows]
        points = ball.project(points, center, factor * eps)
        state = _climb(center, points, active, evaluate, factor * eps, count, factor == 1)
        points = state.best
    active.update(points)


def _climb(
    center: Tensor,
    points: Tensor,
    active: ActiveSet,
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
    eps: float,
    steps: int,
    final: bool,
) -> _State:
    """Ascend in one ball; images are dropped only in the ``final`` one, of the attack's radius."""

    def drop(logits: Tensor) -> None:
        nonlocal center
        if final and len(kept := active.drop(state.points, logits)) < len(state.points):
            state.select(kept)
            center = center[kept]

    with torch.set_grad_enabled(steps > 0):
        logits, loss, gradient = evaluate(points)
    pixels = center[0].numel()
    start = _differing(points, center)
    none = start == 0
    first = torch.full_like(start, int(_FIRST_SHARE * pixels))
    state = _State(
        points=points,
        gradient=gradient,
        best=points,
        best_gradient=gradient,
        best_loss=loss,
        step_size=points.new_full((len(points), 1), eps),
        moving=torch.where(none, first, _fewer(start)).clamp_min(1),
        differing=torch.where(none, pixels, start),
    )
    drop(logits)
    period = max(_CHECKPOINT * steps // 100, 1)
    for step in range(1, steps + 1):
        if len(active) == 0:
            break
        state.points = _move(state, center, eps)
        with torch.set_grad_enabled(step < steps):
            logits, loss, state.gradient = evaluate(state.points)
        better = loss > state.best_loss
        wide = better[:, None, None, None]
        state.best = torch.where(wide, state.points, state.best)
        state.best_gradient = torch.where(wide, state.gradient, state.best_gradient)
        state.best_loss = torch.where(better, loss, state.best_loss)
        drop(logits)
        if step % period == 0:
            _adapt(state, center, eps)
    return state


def _move(state: _State, center: Tensor, eps: float) -> Tensor:
    """Move the pixels with the largest gradients, all equally and by ``step_size`` in sum."""
    gradient = state.gradient.nan_to_num(nan=0).flatten(1)
    size = gradient.abs()
    smallest_first = size.sort(1).values
    # Pixels with as large a gradient as the last one that moves also do.
    least = smallest_first.gather(1, size.shape[1] - state.moving)
    signs = torch.where(size >= least, gradient.sign(), 0)
    move = state.step_size * signs / signs.abs().sum(1, keepdim=True).clamp_min(1)
    return BALLS["l1"].project(state.points + move.view_as(state.points), center, eps)


def _adapt(state: _State, center: Tensor, eps: float) -> None:
    """Choose sparsity and step size, and return to the best point where it has become sparser."""
    differing = _differing(state.best, center)
    sparser = differing < _STILL_SPARSER * state.differing
    smaller = (state.step_size / _SMALLER).clamp_min(eps / _SMALLEST)
    state.step_size = torch.where(sparser, eps, smaller)
    state.moving, state.differing = _fewer(differing).clamp_min(1), differing
    wide = sparser[:, :, None, None]
    state.points = torch.where(wide, state.best, state.points)
    state.gradient = torch.where(wide, state.best_gradient, state.gradient)


def _differing(points: Tensor, center: Tensor) -> Tensor:
    return (points != center).flatten(1).sum(1, keepdim=True)


def _fewer(count: Tensor) -> Tensor:
    return (count / _SPARSER).ceil().long()
