"""The l2 attack of Carlini & Wagner (2017)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sprout_fast.attacks.active import is_misclassified
from sprout_fast.attacks.balls import BALLS
from sprout_fast.attacks.base import borrowed, check_count, check_number, register
from sprout_fast.attacks.losses import margin

_LARGEST_CONSTANT = 1e10  # where none has succeeded
_PROGRESS = 0.9999  # of a tenth of the steps: less than this factor is none
# Of tanh's range that is the box, up to rounding. The authors' code takes all of it: there tanh is
# flat, pixels of 0 and 1 hardly move, and what has many of them looks robust.
_RANGE = 0.99
_INSIDE = _RANGE * (1 - 1e-6)
_END = math.atanh(_INSIDE)


@register("cw_l2")
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
    """The nearest images in [0,1], by Euclidean distance, at which the model errs.

    Adam lowers |x - image|^2 + c max(0, label's logit - largest other + confidence) over w, from
    the image, with x = (tanh(w)/0.99 + 1)/2 and w held where x is in [0,1]. A binary search of each
    image's own c, ten times larger as long as nothing succeeds, looks for the smallest that does
    (Carlini & Wagner, "Towards Evaluating the Robustness of Neural Networks", S&P 2017, section
    VI.A). Like the authors' code, the last of 10 or more searches repeats the best constant.

    An image leaves a search where a tenth of the steps no longer lowers its objective, and the
    attack where a point within `eps` is found.

    Args:
        model: takes images in [0,1], gives logits [B,K]; left as it was.
        images: float32 or float64 [B,C,H,W] in [0,1].
        labels: int64 [B].
        eps: None looks for the nearest; a length in [0,1] units is enough where that is asked.
        binary_searches, steps: >= 1; so many steps in each search.
        step_size: Adam's, of w, > 0.
        initial_constant: the first c, > 0.
        confidence: >= 0, by how much another logit must exceed the label's.
        generator, seed: not used, there is nothing random.

    Returns:
        of each image the nearest point found at which the model errs, within eps where that is
        given; the image itself where there is none or the model errs at it. As `images` otherwise,
        without a graph.

    Raises:
        TypeError, ValueError: images that are no such images, a number outside its range.

    >>> import torch
    >>> model = torch.nn.Flatten()  # the two channels are the logits
    >>> images, labels = torch.tensor([0.6, 0.4]).view(1, 2, 1, 1), torch.tensor([0])
    >>> cw_l2(model, images, labels, steps=100).squeeze().round(decimals=2)
    tensor([0.5000, 0.5000])
    """
    if eps is not None:
        check_number("cw_l2", "eps", eps)
    check_count("cw_l2", "binary_searches", binary_searches, low=1)
    check_count("cw_l2", "steps", steps, low=1)
    check_number("cw_l2", "confidence", confidence)
    for option, value in (("step_size", step_size), ("initial_constant", initial_constant)):
        check_number("cw_l2", option, value)
        if value == 0:
            raise ValueError(f"cw_l2: {option}: got 0, takes a finite number > 0")
    with borrowed("cw_l2", model, images, labels, generator, seed) as (images, labels, _):
        nearest = _Nearest(images, labels, eps, confidence)
        if len(images) > 0:
            with torch.no_grad():
                nearest.look(torch.arange(len(images), device=images.device), images, model(images))
        lower = images.new_zeros(len(images))
        upper = torch.full_like(lower, _LARGEST_CONSTANT)
        constant = torch.full_like(lower, initial_constant)
        for search in range(binary_searches):
            rows = nearest.sought().nonzero().flatten()
            if len(rows) == 0:
                break
            if binary_searches >= 10 and search == binary_searches - 1:
                constant = upper.clone()
            hit = _minimise(model, nearest, rows, constant[rows], steps, step_size)
            upper = torch.where(hit, torch.minimum(upper, constant), upper)
            lower = torch.where(hit, lower, torch.maximum(lower, constant))
            tried = upper < _LARGEST_CONSTANT
            constant = torch.where(tried, (lower + upper) / 2, 10 * constant)
        return nearest.points


class _Nearest:
    """Of each image the nearest point so far at which the model errs, and its distance.

    Attributes:
        points: [B,C,H,W], the image itself where there is none yet.
        distance: float64 [B], infinite where there is none yet.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, eps: float | None, confidence: float
    ) -> None:
        self.images, self.labels, self.confidence = images, labels, confidence
        self.points = images.clone()
        self.distance = images.new_full((len(images),), torch.inf, dtype=torch.float64)
        self._limit, self._enough = (torch.inf, 0.0) if eps is None else (eps, eps)

    def sought(self) -> Tensor:
        """bool [B]: of which images a nearer point is still looked for."""
        return self.distance > self._enough

    def look(self, rows: Tensor, points: Tensor, logits: Tensor) -> Tensor:
        """Take what is nearer of ``points`` [R,C,H,W]; whether the model errs there: bool [R]."""
        labels = self.labels[rows]
        erred = is_misclassified(
            logits.scatter_add(1, labels[:, None], torch.full_like(logits[:, :1], self.confidence)),
            labels,
        )
        distance = BALLS["l2"].distance(points, self.images[rows])
        nearer = erred & (distance < self.distance[rows]) & (distance <= self._limit)
        self.points[rows[nearer]] = points[nearer]
        self.distance[rows[nearer]] = distance[nearer]
        return erred


def _minimise(
    model: Callable[[Tensor], Tensor],
    nearest: _Nearest,
    rows: Tensor,
    constant: Tensor,
    steps: int,
    step_size: float,
) -> Tensor:
    """One search, of the images ``rows`` by their ``constant`` [R]: bool [B], where it hit."""
    hit = torch.zeros_like(nearest.labels, dtype=torch.bool)
    w = ((2 * nearest.images[rows] - 1) * _INSIDE).atanh()
    first, second = torch.zeros_like(w), torch.zeros_like(w)  # Adam's moments
    at_last_look = torch.full_like(constant, torch.inf)
    for step in range(1, steps + 1):
        w = w.detach().requires_grad_()
        points = (w.tanh() / _RANGE + 1) / 2
        logits = model(points)
        missing = (nearest.confidence - margin(logits, nearest.labels[rows])).relu()
        square = (points - nearest.images[rows]).square().flatten(1).sum(1)
        objective = square + constant * missing
        (gradient,) = torch.autograd.grad(objective.sum(), w)
        with torch.no_grad():
            hit[rows] |= nearest.look(rows, points.detach(), logits)
            first.lerp_(gradient, 0.1)
            second.lerp_(gradient.square(), 0.001)
            root = (second / (1 - 0.999**step)).sqrt_().add_(1e-8)
            w = (w - step_size / (1 - 0.9**step) * first / root).clamp(-_END, _END)
            on = nearest.sought()[rows]
            if (step - 1) % math.ceil(steps / 10) == 0:
                on &= objective < _PROGRESS * at_last_look
                at_last_look = objective.detach()
        if not on.all():
            rows, constant, at_last_look, w, first, second = (
                state[on] for state in (rows, constant, at_last_look, w, first, second)
            )
            if len(rows) == 0:
                break
    return hit
