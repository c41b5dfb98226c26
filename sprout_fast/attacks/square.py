"""Square Attack, a random search without gradients: one of AutoAttack's four attacks."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sprout_fast.attacks.active import ActiveSet
from sprout_fast.attacks.balls import BALLS, Norm
from sprout_fast.attacks.base import ATTACKS, borrowed, check_floats, check_ints
from sprout_fast.attacks.losses import margin

# Queries after which the share of the image that a square covers is halved.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@ATTACKS.register("square")
def square(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm = "linf",
    eps: float = 8 / 255,
    queries: int = 5000,
    p_init: float = 0.8,
    rescale_schedule: bool = False,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> Tensor:
    """Square Attack, a random search that uses the model's logits alone.

    Algorithm 1 of Andriushchenko et al., "Square Attack: a query-efficient black-box adversarial
    attack via random search", ECCV 2020: a change of a random square is accepted if it increases
    the margin of the largest wrong logit over the label's. In the l-inf ball each channel of the
    square moves to one side of the ball (Algorithm 2); in the l2 ball it receives the length of
    another square, which is reset (Algorithm 3). In the l1 ball it receives more than that, and the
    result is projected, which makes it sparse (Croce & Hein, "Mind the box", ICML 2021). An image
    leaves the batch as soon as it is misclassified. The defaults are AutoAttack's.

    Args:
        queries: number of forward passes per image, >= 0, after one on the image itself. The first
            is on stripes (linf) or a grid of 5 x 5 tiles (l2, l1).
        p_init: share of the image that the first squares cover, in (0, 1]. It is halved after 10,
            50, 200, 500, 1,000, 2,000, 4,000, 6,000 and 8,000 queries (section 4.1 of the paper).
        rescale_schedule: scale that schedule from 10,000 queries to ``queries``, so that the share
            is halved nine times with any number of them. False is AutoAttack's: with its 5,000
            queries the share is halved seven times, to ``p_init / 128``.
        generator: random numbers, drawn for all B images in each query, so that an image's squares
            do not depend on which others are misclassified.

    Other arguments and errors are those of :func:`~sprout_fast.attacks.pgd.pgd`.

    Returns:
        Images of the same shape and dtype in the ball and in [0, 1]: the first point that is
        misclassified, else the one of the largest margin. Images that are misclassified to begin
        with are returned unchanged.

    >>> model = torch.nn.Flatten()  # the two channels are the logits
    >>> images = torch.tensor([[0.6, 0.4], [0.9, 0.1]])[:, :, None, None]
    >>> found = square(model, images, torch.tensor([0, 0]), eps=0.25, queries=50)
    >>> model(found).argmax(1)  # the second image is too far from the boundary
    tensor([1, 0])
    """
    BALLS.look_up(norm)
    check_floats("square", eps=eps)
    check_ints("square", 0, queries=queries)
    if not 0 < p_init <= 1:
        raise ValueError(f"square: p_init: got {p_init}, expected a number > 0 and <= 1")
    with borrowed("square", model, images, labels, generator, seed) as (images, labels, generator):
        if len(images) == 0:
            return images
        with torch.no_grad():
            active = ActiveSet(images, labels)
            kept = active.drop(images, model(images))

            def draw(*shape: int) -> Tensor:
                """Draw uniform float32 [A,*shape] in [0,1), the active rows of a draw for all."""
                size = len(images), *shape
                drawn = torch.rand(size, generator=generator, device=generator.device)
                return drawn.to(images.device)[active.rows]

            # Contiguous: proposals index into flattened images.
            proposals = _PROPOSALS[norm](images[kept].contiguous(), eps, draw)
            _search(model, active, proposals, queries, p_init, rescale_schedule)
            return active.adversarial


def _search(
    model: nn.Module,
    active: ActiveSet,
    proposals: _LinfProposals | _L2Proposals,
    queries: int,
    p_init: float,
    rescale_schedule: bool,
) -> None:
    """Run Algorithm 1 on the active images."""
    if queries == 0 or len(active) == 0:
        return
    height, width = active.adversarial.shape[2:]
    best = proposals.first()
    best_margin = best.new_full((len(active),), -torch.inf)
    for query in range(queries):
        if len(active) == 0:
            return
        proposed = best
        if query > 0:
            place = (query - 1) * (10_000 / queries if rescale_schedule else 1)
            halvings = bisect.bisect_left(_HALVINGS, place)
            side = proposals.side(p_init / 2**halvings * height * width)
            proposed = proposals.propose(best, side)
        logits = model(proposed)
        value = margin(logits, active.labels)
        better = value > best_margin
        best = torch.where(better[:, None, None, None], proposed, best)
        best_margin = torch.where(better, value, best_margin)
        kept = active.drop(proposed, logits)
        if len(kept) < len(proposed):
            best, best_margin = best[kept], best_margin[kept]
            proposals.select(kept)
    active.update(best)


class _LinfProposals:
    """Algorithm 2: each channel of a square moves to one side of the ball."""

    def __init__(self, images: Tensor, eps: float, draw: Callable[..., Tensor]) -> None:
        ball = BALLS["linf"]
        self.lower = ball.project(torch.zeros_like(images), images, eps)
        self.upper = ball.project(torch.ones_like(images), images, eps)
        self.draw = draw

    def first(self) -> Tensor:
        """Return vertical stripes, one pixel wide."""
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
    """Algorithm 3: a square receives the squared length of another, and what the ball has left."""

    order = 2  # of the norm
    decay = 2  # of a bump with the distance from its peak

    def __init__(self, images: Tensor, eps: float, draw: Callable[..., Tensor]) -> None:
        self.images, self.eps, self.draw = images, eps, draw
        self.bumps = images.new_empty(0, 0, 0)

    def first(self) -> Tensor:
        """Return a grid of 5 x 5 bumps of random sign and direction, with a total length of eps."""
        grid = self.grid()
        length = torch.linalg.vector_norm(grid, dim=(1, 2, 3), keepdim=True)
        return BALLS["l2"].project(self.images + self.eps / length * grid, self.images, self.eps)

    def grid(self) -> Tensor:
        channels, height, width = self.images.shape[1:]
        side = max(min(height, width) // 5, 1)
        rows, columns = height // side, width // side
        drawn = self.draw(channels + 1, rows, columns)
        transposed = (drawn[:, channels:] < 0.5).long()
        tiles = self._bumps_of(side).view(2, side, side)[transposed]  # [A,1,rows,columns,side,side]
        tiles = tiles * _signs(drawn[:, :channels])[..., None, None]
        grid = tiles.transpose(3, 4).flatten(4, 5).flatten(2, 3)
        above, left = (height - rows * side) // 2, (width - columns * side) // 2
        below, right = height - rows * side - above, width - columns * side - left
        return F.pad(grid, (left, right, above, below))

    def side(self, area: float) -> int:
        side = max(round(math.sqrt(area)), 3)
        return min(side + (side % 2 == 0), *self.images.shape[2:])

    def propose(self, points: Tensor, side: int) -> Tensor:
        channels = points.shape[1]
        drawn = self.draw(channels + 5)
        window = _windows(drawn[:, channels : channels + 2], side, points)
        cleared = _windows(drawn[:, channels + 2 : channels + 4], side, points)
        bump = self._bumps_of(side)[(drawn[:, -1] < 0.5).long()][:, None]  # [A,1,side * side]
        difference = (points - self.images).flatten(2)
        unused = self.unused(difference)
        old = difference.gather(2, window)
        difference.scatter_(2, window, 0)  # first, so that the union counts no pixel twice
        taken = torch.cat([old, difference.gather(2, cleared)], 2)
        new = _signs(drawn[:, :channels])[..., None] * bump + F.normalize(old, self.order, dim=2)
        new = self.length(taken, unused) * F.normalize(new, self.order, dim=2)
        difference.scatter_(2, cleared, 0)
        difference.scatter_(2, window, new)
        proposed = self.images + difference.view_as(points)
        return BALLS[f"l{self.order}"].project(proposed, self.images, self.eps)

    def unused(self, difference: Tensor) -> Tensor:
        """Return what ``difference`` [A,C,H*W] leaves of the ball's squared radius: [A,1,1]."""
        return (self.eps**2 - difference.square().sum((1, 2), keepdim=True)).clamp_min(0)

    def length(self, taken: Tensor, unused: Tensor) -> Tensor:
        """Return the length of a square's new perturbation in each channel: [A,C,1]."""
        return (taken.square().sum(2, keepdim=True) + unused / taken.shape[1]).sqrt()

    def select(self, rows: Tensor) -> None:
        self.images = self.images[rows]

    def _bumps_of(self, side: int) -> Tensor:
        """Return the bump and its transpose, [2, side * side], in the images' dtype."""
        if self.bumps.shape[1] != side**2:
            bump = _bump(side, self.order, self.decay)
            self.bumps = torch.stack([bump, bump.T]).flatten(1).to(self.images)
        return self.bumps


class _L1Proposals(_L2Proposals):
    """Algorithm 3 with steeper bumps, and lengths beyond the ball that a projection shrinks."""

    order = 1
    decay = 4

    def first(self) -> Tensor:
        """Return a grid of 5 x 5 bumps of length 1, projected."""
        return BALLS["l1"].project(self.images + self.grid(), self.images, self.eps)

    def unused(self, difference: Tensor) -> Tensor:
        return (self.eps - difference.abs().sum((1, 2), keepdim=True)).clamp_min(0)

    def length(self, taken: Tensor, unused: Tensor) -> Tensor:
        channels = taken.shape[1]
        return channels * (taken.abs().sum(2, keepdim=True) + unused / channels)


_PROPOSALS = {"linf": _LinfProposals, "l2": _L2Proposals, "l1": _L1Proposals}


def _signs(drawn: Tensor) -> Tensor:
    return torch.where(drawn < 0.5, -1.0, 1.0)


def _windows(drawn: Tensor, side: int, points: Tensor) -> Tensor:
    """Return the squares' indices in flattened pixels of ``points``: int64 [A,C,side * side].

    ``drawn`` [A,2] in [0,1) is the vertical and horizontal position of each square.
    """
    channels, height, width = points.shape[1:]
    top = (drawn[:, 0] * (height - side + 1)).long()
    left = (drawn[:, 1] * (width - side + 1)).long()
    across = torch.arange(side, device=points.device)
    rows, columns = top[:, None, None] + across[:, None], left[:, None, None] + across
    return (rows * width + columns).flatten(1)[:, None].expand(-1, channels, -1)


def _bump(side: int, order: int = 2, decay: int = 2) -> Tensor:
    """Return equation (3), a peak above a trough: float64 [side, side] of length 1.

    Peak and trough have the same length even if the side is odd and the trough has one row more, as
    in the authors' code.
    """
    half = side // 2
    peaks = _peak(half, side, order, decay), -_peak(side - half, side, order, decay)
    bump = torch.cat(peaks)
    return bump / torch.linalg.vector_norm(bump, ord=order)


def _peak(height: int, width: int, order: int, decay: int) -> Tensor:
    """Return equation (2), scaled to length 1: float64 [height, width].

    At Chebyshev distance d from the middle it is the sum of 1/j^decay from j = d + 1 on.
    """
    last = max(height, width) // 2 + 1
    terms = torch.arange(1, last + 1, dtype=torch.float64).pow(-decay)
    sums = terms.flip(0).cumsum(0).flip(0)
    down = (torch.arange(height) - height // 2).abs()
    across = (torch.arange(width) - width // 2).abs()
    peak = sums[torch.maximum(down[:, None], across)]
    return peak / torch.linalg.vector_norm(peak, ord=order)
