"""Square Attack: random search without gradients (Andriushchenko et al. 2020), of AutoAttack."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sprout_fast.attacks.active import ActiveSet
from sprout_fast.attacks.balls import BALLS
from sprout_fast.attacks.base import borrowed, check_choice, check_count, check_number, register
from sprout_fast.attacks.losses import LOSSES

# Of 10,000 queries, those after which the part of the image that a proposal covers is halved.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@register("square")
def square(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: str = "linf",
    eps: float = 8 / 255,
    queries: int = 5000,
    p_init: float = 0.8,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> Tensor:
    """Points within eps of `images` at which the model errs, found from its logits alone.

    Algorithm 1 of Andriushchenko et al., "Square Attack: a query-efficient black-box adversarial
    attack via random search", ECCV 2020: a change of a random square is kept where it raises the
    margin of the largest other logit over the label's. In the l-infinity ball each channel of the
    square goes to one side of the ball (Algorithm 2); in the l2 ball it takes up the length of
    another square, which it clears (Algorithm 3). An image leaves the batch where the model first
    errs. The defaults are those of AutoAttack.

    Args:
        model: takes images in [0,1], gives logits [B,K]; no gradient is asked of it. In eval mode
            meanwhile; its modes are left as they were.
        images: float32 or float64 [B,C,H,W] in [0,1]. The attack runs in this dtype.
        labels: int64 [B].
        norm: a key of BALLS: "linf" or "l2".
        eps: radius of the ball, >= 0, in [0,1] units.
        queries: >= 0, forward passes of each image after one on the image itself. The first is of
            stripes (linf) or of a grid of 5 x 5 tiles (l2).
        p_init: in (0, 1], the part of the image that the first squares cover. It is halved nine
            times, as in the paper's section 4.1, whose 10,000 queries are scaled to `queries`.
        generator: gives the squares and is advanced: each query draws for all B images, so that
            what an image gets does not depend on which others have misclassified. Without one, a fresh
            generator on the images' device, seeded with `seed`.

    Returns:
        images like `images`, in the ball and in [0,1]: where the model erred, or of the largest
        margin; those misclassified to begin with unchanged.

    Raises:
        TypeError, ValueError: see `check_images`; an option outside its range.
        UserError: unknown norm.

    >>> import torch
    >>> model = torch.nn.Flatten()  # the two channels are the logits
    >>> images = torch.tensor([[0.6, 0.4], [0.9, 0.1]])[:, :, None, None]
    >>> found = square(model, images, torch.tensor([0, 0]), eps=0.25, queries=50)
    >>> model(found).argmax(1)  # the second is too far from the boundary
    tensor([1, 0])
    """
    name = "square"
    check_choice(name, "norm", norm, BALLS)
    check_number(name, "eps", eps)
    check_count(name, "queries", queries)
    if not 0 < p_init <= 1:
        raise ValueError(f"{name}: p_init: got {p_init}, takes a number > 0 and <= 1")
    with borrowed(name, model, images, labels, generator, seed) as (images, labels, generator):
        if len(images) == 0:
            return images
        with torch.no_grad():
            active = ActiveSet(images, labels)
            still = active.drop(images, model(images))

            def draw(*shape: int) -> Tensor:
                """Uniform float32 [S,*shape] in [0,1) for those that stand, drawn for all."""
                drawn = torch.rand(
                    len(images), *shape, generator=generator, device=generator.device
                )
                return drawn.to(images.device)[active.rows]

            # The searches look at windows of flattened images, so in NCHW order.
            proposals = _PROPOSALS[norm](images[still].contiguous(), eps, draw)
            _search(model, active, proposals, queries, p_init)
            return active.adversarial


class _Proposals(Protocol):
    """What to try next for the images that stand; these are its own, [S,C,H,W]."""

    def __init__(self, images: Tensor, eps: float, draw: Callable[..., Tensor]) -> None: ...

    def first(self) -> Tensor:
        """Points [S,C,H,W] to begin with."""
        ...

    def side(self, area: float) -> int:
        """Of a square that covers ``area`` pixels, as this norm takes them."""
        ...

    def propose(self, points: Tensor, side: int) -> Tensor:
        """Other points [S,C,H,W], each changed in a random square."""
        ...

    def select(self, rows: Tensor) -> None:
        """Only these of the S images still stand."""
        ...


def _search(
    model: nn.Module, active: ActiveSet, proposals: _Proposals, queries: int, p_init: float
) -> None:
    """Algorithm 1."""
    height, width = active.adversarial.shape[2:]
    best = best_margin = None
    for query in range(queries):
        if len(active) == 0:
            return
        if best is None:
            proposed = proposals.first()
        else:
            halvings = bisect.bisect_left(_HALVINGS, (query - 1) * 10_000 / queries)
            side = proposals.side(p_init / 2**halvings * height * width)
            proposed = proposals.propose(best, side)
        logits = model(proposed)
        margin = LOSSES["margin"](logits, active.labels)
        if best is None:
            best, best_margin = proposed, margin
        else:
            better = margin > best_margin
            best = torch.where(better[:, None, None, None], proposed, best)
            best_margin = torch.where(better, margin, best_margin)
        still = active.drop(proposed, logits)
        if len(still) < len(proposed):
            best, best_margin = best[still], best_margin[still]
            proposals.select(still)
    if best is not None:
        active.keep(best)


class _LinfProposals:
    """Algorithm 2: each channel of a square at one side of the ball."""

    def __init__(self, images: Tensor, eps: float, draw: Callable[..., Tensor]) -> None:
        ball = BALLS["linf"]
        self.lower = ball.project(torch.zeros_like(images), images, eps)
        self.upper = ball.project(torch.ones_like(images), images, eps)
        self.draw = draw

    def first(self) -> Tensor:
        """Vertical stripes, one pixel wide."""
        _, channels, _, width = self.lower.shape
        return torch.where(self.draw(channels, 1, width) < 0.5, self.lower, self.upper)

    def side(self, area: float) -> int:
        return min(max(round(math.sqrt(area)), 1), *self.lower.shape[2:])

    def propose(self, points: Tensor, side: int) -> Tensor:
        channels = points.shape[1]
        drawn = self.draw(channels + 2)
        window = _windows(drawn[:, channels:], side, points)
        changed = torch.where(
            drawn[:, :channels, None] < 0.5,
            self.lower.flatten(2).gather(2, window),
            self.upper.flatten(2).gather(2, window),
        )
        return points.flatten(2).scatter(2, window, changed).view_as(points)

    def select(self, rows: Tensor) -> None:
        self.lower, self.upper = self.lower[rows], self.upper[rows]


class _L2Proposals:
    """Algorithm 3: a square takes what another, and the ball, have left of squared length."""

    def __init__(self, images: Tensor, eps: float, draw: Callable[..., Tensor]) -> None:
        self.images, self.eps, self.draw = images, eps, draw
        self.bumps = images.new_empty(0, 0, 0)

    def first(self) -> Tensor:
        """A grid of 5 x 5 bumps of random sign and direction, of length eps in all."""
        channels, height, width = self.images.shape[1:]
        side = max(min(height, width) // 5, 1)
        rows, columns = height // side, width // side
        drawn = self.draw(channels + 1, rows, columns)
        turned = (drawn[:, channels:] < 0.5).long()
        tiles = self._bumps_of(side).view(2, side, side)[turned]  # [S,1,rows,columns,side,side]
        tiles = tiles * _signs(drawn[:, :channels])[..., None, None]
        grid = tiles.transpose(3, 4).flatten(4, 5).flatten(2, 3)
        above, left = (height - rows * side) // 2, (width - columns * side) // 2
        below, right = height - rows * side - above, width - columns * side - left
        grid = F.pad(grid, (left, right, above, below))
        length = torch.linalg.vector_norm(grid, dim=(1, 2, 3), keepdim=True)
        return BALLS["l2"].project(self.images + self.eps / length * grid, self.images, self.eps)

    def side(self, area: float) -> int:
        side = max(round(math.sqrt(area)), 3)
        return min(side + (side % 2 == 0), *self.images.shape[2:])

    def propose(self, points: Tensor, side: int) -> Tensor:
        channels = points.shape[1]
        drawn = self.draw(channels + 5)
        window = _windows(drawn[:, channels : channels + 2], side, points)
        cleared = _windows(drawn[:, channels + 2 : channels + 4], side, points)
        bump = self._bumps_of(side)[(drawn[:, -1] < 0.5).long()][:, None]  # [S,1,side * side]
        difference = (points - self.images).flatten(2)
        unused = (self.eps**2 - difference.square().sum((1, 2), keepdim=True)).clamp_min(0)
        old = difference.gather(2, window)
        difference.scatter_(2, window, 0)  # first, so that the union counts no pixel twice
        available = (
            old.square().sum(2, keepdim=True)
            + difference.gather(2, cleared).square().sum(2, keepdim=True)
            + unused / channels
        ).sqrt()
        new = _signs(drawn[:, :channels])[..., None] * bump + F.normalize(old, dim=2)
        difference.scatter_(2, cleared, 0)
        difference.scatter_(2, window, available * F.normalize(new, dim=2))
        proposed = self.images + difference.view_as(points)
        return BALLS["l2"].project(proposed, self.images, self.eps)

    def select(self, rows: Tensor) -> None:
        self.images = self.images[rows]

    def _bumps_of(self, side: int) -> Tensor:
        """The bump and its transpose, [2, side * side], in the images' dtype."""
        if self.bumps.shape[1] != side**2:
            bump = _bump(side)
            self.bumps = torch.stack([bump, bump.T]).flatten(1).to(self.images)
        return self.bumps


_PROPOSALS: dict[str, type[_Proposals]] = {"linf": _LinfProposals, "l2": _L2Proposals}


def _signs(drawn: Tensor) -> Tensor:
    return torch.where(drawn < 0.5, -1.0, 1.0)


def _windows(drawn: Tensor, side: int, points: Tensor) -> Tensor:
    """Where squares lie in the flattened pixels of ``points`` [S,C,H,W]: int64 [S,C,side * side].

    ``drawn`` [S,2] in [0,1) says how far down and to the right.
    """
    channels, height, width = points.shape[1:]
    top = (drawn[:, 0] * (height - side + 1)).long()
    left = (drawn[:, 1] * (width - side + 1)).long()
    across = torch.arange(side, device=points.device)
    rows, columns = top[:, None, None] + across[:, None], left[:, None, None] + across
    return (rows * width + columns).flatten(1)[:, None].expand(-1, channels, -1)


def _bump(side: int) -> Tensor:
    """Equation (3), float64 [side, side] of length 1: a peak above a trough.

    Both are of one length, also where an odd side gives the trough a row more: so it is in the
    authors' code.
    """
    half = side // 2
    return F.normalize(torch.cat([_peak(half, side), -_peak(side - half, side)]), dim=(0, 1))


def _peak(height: int, width: int) -> Tensor:
    """Equation (2): at Chebyshev distance d from the middle the sum of 1/j^2 from j = d + 1 on."""
    last = max(height, width) // 2 + 1
    falling = torch.arange(1, last + 1, dtype=torch.float64).pow(-2).flip(0).cumsum(0).flip(0)
    down = (torch.arange(height) - height // 2).abs()
    across = (torch.arange(width) - width // 2).abs()
    peak = falling[torch.maximum(down[:, None], across)]
    return peak / peak.norm()
