"""Fast Adaptive Boundary attack, targeted (Croce & Hein 2020), of AutoAttack."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sprout_fast.attacks.active import ActiveSet, is_misclassified
from sprout_fast.attacks.balls import BALLS
from sprout_fast.attacks.base import (
    borrowed,
    check_choice,
    check_count,
    check_number,
    register,
    value_and_gradient,
)
from sprout_fast.attacks.losses import LOSSES, likeliest_wrong

# Of the final search: its steps, as in the paper, and how much of what lies beyond the point that
# it aims at it adds, because on a boundary that is straight the point itself is not adversarial.
_FINAL_STEPS = 3
_BEYOND = 0.02


@register("fab_t")
def fab_t(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: str = "linf",
    eps: float | None = 8 / 255,
    steps: int = 100,
    restarts: int = 1,
    target_classes: int = 9,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> Tensor:
    """The nearest points at which the model errs, by stepping to its linearised boundary.

    Algorithm 1 of Croce & Hein, "Minimally distorted adversarial examples with a fast adaptive
    boundary attack", ICML 2020, towards one class a run: each of the `target_classes` wrong classes
    that the model finds likeliest at the image, likeliest first. An image leaves the batch with the
    first point within eps at which the model errs. The defaults are those of AutoAttack, to which
    the paper's final search is added.

    Args:
        model: takes images in [0,1], gives logits [B,K]. In eval mode meanwhile; its modes, its
            requires_grad flags and its parameters' .grad are left as they were.
        images: float32 or float64 [B,C,H,W] in [0,1]. The attack runs in this dtype.
        labels: int64 [B].
        norm: a key of BALLS, in which distance is meant: "linf" or "l2".
        eps: >= 0, in [0,1] units: what is further away does not count. With None everything does,
            no image leaves, and the result tells how far the model's boundary is at most.
        steps: >= 0, of two forward passes and one backward pass each.
        restarts: >= 1 for each target. The first run starts from the image, the others from a
            uniform point at half the distance of what was found, at most half of eps.
        target_classes: >= 1, and at most K - 1 are taken.
        alpha_max: in [0,1], the largest part that the image's own projection has in a step (9).
        eta: >= 1, by how much steps pass the linearised boundary.
        beta: in (0,1], the part that is kept of an adversarial point's way from the image.
        generator: gives the restarts and is advanced: each draws for all B images. Without one, a
            fresh generator on the images' device, seeded with `seed`.

    Returns:
        images like `images` and in [0,1]: the nearest point found at which the model errs; where
        there is none within eps, the image.

    Raises:
        TypeError, ValueError: see `check_images`; an option outside its range.
        UserError: unknown norm.

    >>> import torch
    >>> model = torch.nn.Flatten()  # the two channels are the logits
    >>> images, labels = torch.tensor([[[[0.75]], [[0.25]]]]), torch.tensor([0])
    >>> fab_t(model, images, labels, eps=0.375).flatten()
    tensor([0.4875, 0.5125])
    """
    name = "fab_t"
    check_choice(name, "norm", norm, BALLS)
    if eps is not None:
        check_number(name, "eps", eps)
    check_count(name, "steps", steps)
    check_count(name, "restarts", restarts, low=1)
    check_count(name, "target_classes", target_classes, low=1)
    for option, value, taken, fits in (
        ("alpha_max", alpha_max, "a number >= 0 and <= 1", 0 <= alpha_max <= 1),
        ("eta", eta, "a finite number >= 1", 1 <= eta < math.inf),
        ("beta", beta, "a number > 0 and <= 1", 0 < beta <= 1),
    ):
        if not fits:
            raise ValueError(f"{name}: {option}: got {value}, takes {taken}")
    with borrowed(name, model, images, labels, generator, seed) as (images, labels, generator):
        if len(images) == 0:
            return images
        search = _Search(model, images, labels, norm, eps)
        for targets in likeliest_wrong(search.clean_logits, labels, target_classes).unbind(1):
            for restart in range(restarts):
                start = search.near(generator) if restart > 0 else images
                search.run(start, targets, steps, alpha_max, eta, beta)
                search.finish()
        return search.found()


class _Search:
    """The nearest points found so far, and the runs that look for nearer ones."""

    def __init__(
        self, model: nn.Module, images: Tensor, labels: Tensor, norm: str, eps: float | None
    ) -> None:
        self.model, self.images, self.norm, self.eps = model, images, norm, eps
        self.ball = BALLS[norm]
        self.active = ActiveSet(images, labels)  # its adversarial: the nearest points
        with torch.no_grad():
            self.clean_logits = model(images)
        self.active.drop(images, self.clean_logits)
        self.clean_margin = LOSSES["margin"](self.clean_logits, labels)
        # Of the nearest points: how far they are, float64 [B], and their margin [B].
        self.distance = torch.full_like(labels, torch.inf, dtype=torch.float64)
        self.margin = torch.full_like(self.distance, torch.nan, dtype=images.dtype)

    def near(self, generator: torch.Generator) -> Tensor:
        """Uniform points [B,C,H,W] at half the distance of the nearest, at most half of eps."""
        radius = self.distance.clamp(max=1 if self.eps is None else self.eps) / 2
        # From the ball of radius 1: the segments to its points in [0,1] are in [0,1] too.
        away = self.ball.uniform(self.images, 1.0, generator) - self.images
        return self.images + radius.to(away.dtype)[:, None, None, None] * away

    def run(
        self,
        start: Tensor,
        targets: Tensor,
        steps: int,
        alpha_max: float,
        eta: float,
        beta: float,
    ) -> None:
        """Algorithm 1 for the images that stand; ``start`` [B,C,H,W], ``targets`` int64 [B]."""
        active = self.active
        points, centre = start[active.rows], self.images[active.rows]

        def towards_target(logits: Tensor) -> Tensor:
            return LOSSES["margin"](logits, active.labels, targets[active.rows])

        for _ in range(steps):
            if len(active) == 0:
                return
            _, value, gradient = value_and_gradient(self.model, points, towards_target)
            with torch.no_grad():
                points = _step(points, centre, value, gradient, self.norm, alpha_max, eta)
                erring, still = self.record(points, self.model(points))
                pulled = centre + beta * (points - centre)
                points = torch.where(erring[:, None, None, None], pulled, points)
                if len(still) < len(points):
                    points, centre = points[still], centre[still]

    @torch.no_grad()
    def finish(self) -> None:
        """The final search, on the segment from each image to the nearest point found.

        The margin is taken to be linear between the outermost point at which the model did not err
        and the innermost at which it did; a little beyond that line's zero is the next point.
        """
        active = self.active
        rows = active.rows
        inner, outer = self.images[rows], active.adversarial[rows]
        inner_margin, outer_margin = self.clean_margin[rows], self.margin[rows]
        for _ in range(_FINAL_STEPS):
            if len(active) == 0:
                return
            part = inner_margin / (inner_margin - outer_margin)
            part = part.nan_to_num(nan=1).clamp(0, 1)  # NaN: nothing found
            part = (part + _BEYOND * (1 - part))[:, None, None, None]
            points = (inner + part * (outer - inner)).clamp(0, 1)
            logits = self.model(points)
            margin = LOSSES["margin"](logits, active.labels)
            erring, still = self.record(points, logits)
            inner_margin = torch.where(erring, inner_margin, margin)[still]
            outer_margin = torch.where(erring, margin, outer_margin)[still]
            wide = erring[:, None, None, None]
            inner = torch.where(wide, inner, points)[still]
            outer = torch.where(wide, points, outer)[still]

    def record(self, points: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Take the points that are nearer than those before, and let go of what is within eps.

        Returns:
            (bool [S], where the model errs at ``points``; int64 [S'], see `ActiveSet.drop`).
        """
        active = self.active
        erring = is_misclassified(logits, active.labels)
        which = erring.nonzero().flatten()
        rows = active.rows[which]
        distance = self.ball.distance(points[which], self.images[rows])
        nearer = distance < self.distance[rows]
        which, rows = which[nearer], rows[nearer]
        active.adversarial[rows] = points[which]
        self.distance[rows] = distance[nearer]
        self.margin[rows] = LOSSES["margin"](logits[which], active.labels[which])
        within = torch.zeros_like(erring)
        if self.eps is not None:
            within = self.distance[active.rows] <= self.eps
        return erring, active.leave(within)

    def found(self) -> Tensor:
        """[B,C,H,W]: what counts of the nearest points, else the images."""
        eps = torch.inf if self.eps is None else self.eps
        counts = self.distance <= eps
        return torch.where(counts[:, None, None, None], self.active.adversarial, self.images)


def _step(
    points: Tensor,
    centre: Tensor,
    value: Tensor,
    gradient: Tensor,
    norm: str,
    alpha_max: float,
    eta: float,
) -> Tensor:
    """Equations (7) to (9): past the linearised boundary, a little from the image's own side.

    Args:
        points, centre: [S,C,H,W], the iterates and the images.
        value: [S], the target's logit minus the label's at points.
        gradient: [S,C,H,W], of value at points.
    """
    # The plane is that of any multiple; products of small gradients would underflow.
    normal = gradient.nan_to_num(nan=0, posinf=0, neginf=0)
    largest = normal.abs().amax((1, 2, 3)).clamp_min(torch.finfo(normal.dtype).tiny)
    normal, value = normal / largest[:, None, None, None], (value / largest).nan_to_num(nan=0)
    value_at_centre = value + (normal * (centre - points)).sum((1, 2, 3))
    both = _to_plane(
        torch.cat([points, centre]).flatten(1),
        torch.cat([normal, normal]).flatten(1),
        torch.cat([value, value_at_centre]),
        norm,
    )
    length = torch.linalg.vector_norm(both, ord=torch.inf if norm == "linf" else 2, dim=1)
    ours, its = length.clamp_min(1e-8).chunk(2)  # from the iterate, from the image
    alpha = (ours / (ours + its)).clamp(max=alpha_max)[:, None, None, None]
    to_plane, centre_to_plane = both.view(2, *points.shape)
    ahead = (1 - alpha) * (points + eta * to_plane) + alpha * (centre + eta * centre_to_plane)
    return ahead.clamp(0, 1)


def _to_plane(points: Tensor, normal: Tensor, value: Tensor, norm: str) -> Tensor:
    """The shortest d with value + <normal, d> = 0 and points + d in [0,1], equation (3) and (4).

    Where the plane misses the box: to the box's corner nearest to the plane.

    Every element moves against the sign of value * normal, at a speed of 1 (linf) or |normal| (l2),
    until it meets the box. How far the plane comes nearer, over the time that this goes on, is
    increasing, concave and made of straight pieces. So Newton's method from 0 comes to the plane
    from below, every step on another piece, and is exact on the last.

    Args:
        points, normal: [S,N].
        value: [S].
        norm: "linf" or "l2".
    """
    direction = -value.sign()[:, None] * normal.sign()
    room = torch.where(direction > 0, 1 - points, points) * direction.abs()
    pull = normal.abs()
    speed = pull if norm == "l2" else torch.ones_like(pull)
    at_most, rate, needed = pull * room, pull * speed, value.abs()
    time = torch.zeros_like(needed)
    while True:
        free = time[:, None] * speed < room
        left = needed - torch.where(free, 0, at_most).sum(1)
        later = torch.where(free.any(1), left / (rate * free).sum(1), time)
        if not (later > time).any():
            return direction * torch.where(free, time[:, None] * speed, room)
        time = torch.maximum(later, time)
