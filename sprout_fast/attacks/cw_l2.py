"""Carlini & Wagner's l2 attack."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sprout_fast.attacks.active import is_misclassified
from sprout_fast.attacks.balls import BALLS
from sprout_fast.attacks.base import ATTACKS, borrowed, check_floats, check_ints
from sprout_fast.attacks.losses import margin

_LARGEST_CONSTANT = 1e10  # upper bound of the search until a constant succeeds
_PROGRESS = 0.9999  # a search ends unless a tenth of its steps lowers the objective by this factor
# Share of tanh's range that is mapped to [0,1], up to rounding. The authors' code uses all of it;
# tanh is flat at its ends, so pixels of 0 and 1 hardly move and images with many of them look
# robust.
_RANGE = 0.99
_INSIDE = _RANGE * (1 - 1e-6)
_END = math.atanh(_INSIDE)


@ATTACKS.register("cw_l2")
def cw_l2(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | None = None,
    binary_searches: int = 10,
    steps: int = 1000,
    step_size: float = 0.01,
    initial_constant: float = 1e-3,
    confidence: float = 0.0,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> Tensor:
    """Carlini & Wagner's attack: the smallest l2 perturbation that is misclassified.

    Adam minimizes |x - image|^2 + c max(0, label's logit - largest other + confidence) over w, from
    the image, with x = (tanh(w) / 0.99 + 1) / 2 and w clamped so that x stays in [0, 1]. A binary
    search finds the smallest c that succeeds for each image, starting with c ten times larger as
    long as none does (Carlini & Wagner, "Towards Evaluating the Robustness of Neural Networks", S&P
    2017, section VI.A). As in the authors' code, the last of 10 or more searches repeats the best
    constant.

    An image leaves a search when a tenth of the steps no longer lowers its objective, and leaves
    the attack when a point within ``eps`` is found.

    Args:
        eps: distance, on images in [0, 1], at which a point is close enough. Default: search for
            the closest point.
        binary_searches: number of searches, >= 1.
        steps: number of steps in each search, >= 1.
        step_size: Adam's learning rate for w, > 0.
        initial_constant: the first c, > 0.
        confidence: amount by which another logit must exceed the label's, >= 0.
        generator, seed: not used; the attack is deterministic.

    Other arguments and errors are those of :func:`~sprout_fast.attacks.pgd.pgd`.

    Returns:
        Images of the same shape and dtype in [0, 1], without a graph: the closest misclassified
        point found, within ``eps`` if given. The image itself if there is none, or if it is
        misclassified to begin with.

    >>> model = torch.nn.Flatten()  # the two channels are the logits
    >>> images, labels = torch.tensor([0.6, 0.4]).view(1, 2, 1, 1), torch.tensor([0])
    >>> cw_l2(model, images, labels, steps=100).squeeze().round(decimals=2)
    tensor([0.5000, 0.5000])
    """
    check_floats("cw_l2", eps=eps or 0, confidence=confidence)
    check_ints("cw_l2", 1, binary_searches=binary_searches, steps=steps)
    for option, value in (("step_size", step_size), ("initial_constant", initial_constant)):
        check_floats("cw_l2", **{option: value})
        if value == 0:
            raise ValueError(f"cw_l2: {option}: got 0, expected a finite number > 0")
    with borrowed("cw_l2", model, images, labels, generator, seed) as (images, labels, _):
        closest = _Closest(images, labels, eps, confidence)
        if len(images) > 0:
            with torch.no_grad():
                everything = torch.arange(len(images), device=images.device)
                closest.record(everything, images, model(images))
        lower = images.new_zeros(len(images))
        upper = torch.full_like(lower, _LARGEST_CONSTANT)
        constant = torch.full_like(lower, initial_constant)
        for search in range(binary_searches):
            rows = closest.searching().nonzero().flatten()
            if len(rows) == 0:
                break
            if binary_searches >= 10 and search == binary_searches - 1:
                constant = upper.clone()
            found = _minimize(model, closest, rows, constant[rows], steps, step_size)
            upper = torch.where(found, torch.minimum(upper, constant), upper)
            lower = torch.where(found, lower, torch.maximum(lower, constant))
            tried = upper < _LARGEST_CONSTANT
            constant = torch.where(tried, (lower + upper) / 2, 10 * constant)
        return closest.points


class _Closest:
    """The closest misclassified point found so far for each image, and its distance.

    That is the image itself, at an infinite distance, until one is found.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, eps: float | None, confidence: float
    ) -> None:
        self.images, self.labels, self.confidence = images, labels, confidence
        self.points = images.clone()
        self.distance = images.new_full((len(images),), torch.inf, dtype=torch.float64)
        self._limit, self._enough = (torch.inf, 0.0) if eps is None else (eps, eps)

    def searching(self) -> Tensor:
        """Return for which images a closer point is still searched for, bool [B]."""
        return self.distance > self._enough

    def record(self, rows: Tensor, points: Tensor, logits: Tensor) -> Tensor:
        """Store points that are misclassified and closer; return which are misclassified."""
        labels = self.labels[rows]
        confidence = torch.full_like(logits[:, :1], self.confidence)
        confident = logits.scatter_add(1, labels[:, None], confidence)
        misclassified = is_misclassified(confident, labels)
        distance = BALLS["l2"].distance(points, self.images[rows])
        closer = misclassified & (distance < self.distance[rows]) & (distance <= self._limit)
        self.points[rows[closer]] = points[closer]
        self.distance[rows[closer]] = distance[closer]
        return misclassified


def _minimize(
    model: Callable[[Tensor], Tensor],
    closest: _Closest,
    rows: Tensor,
    constant: Tensor,
    steps: int,
    step_size: float,
) -> Tensor:
    """Search once on the images ``rows``; return for which a misclassified point was found."""
    found = torch.zeros_like(closest.labels, dtype=torch.bool)
    w = ((2 * closest.images[rows] - 1) * _INSIDE).atanh()
    first, second = torch.zeros_like(w), torch.zeros_like(w)  # Adam's moments
    last_objective = torch.full_like(constant, torch.inf)
    for step in range(1, steps + 1):
        w = w.detach().requires_grad_()
        points = (w.tanh() / _RANGE + 1) / 2
        logits = model(points)
        missing = (closest.confidence - margin(logits, closest.labels[rows])).relu()
        square = (points - closest.images[rows]).square().flatten(1).sum(1)
        objective = square + constant * missing
        (gradient,) = torch.autograd.grad(objective.sum(), w)
        with torch.no_grad():
            found[rows] |= closest.record(rows, points.detach(), logits)
            first.lerp_(gradient, 0.1)
            second.lerp_(gradient.square(), 0.001)
            root = (second / (1 - 0.999**step)).sqrt_().add_(1e-8)
            w = (w - step_size / (1 - 0.9**step) * first / root).clamp(-_END, _END)
            continuing = closest.searching()[rows]
            if (step - 1) % math.ceil(steps / 10) == 0:
                continuing &= objective < _PROGRESS * last_objective
                last_objective = objective.detach()
        if not continuing.all():
            rows, constant, last_objective, w, first, second = (
                state[continuing] for state in (rows, constant, last_objective, w, first, second)
            )
            if len(rows) == 0:
                break
    return found
