"""Fast Adaptive Boundary attack; targeted, it is one of AutoAttack's four attacks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sprout_fast.attacks.active import ActiveSet, is_misclassified
from sprout_fast.attacks.balls import BALLS, Norm
from sprout_fast.attacks.base import ATTACKS, borrowed, check_floats, check_ints, value_and_gradient
from sprout_fast.attacks.losses import likeliest_wrong, margin

# Steps of the final search, as in the paper.
_FINAL_STEPS = 3
# Share of the rest of the segment that each of them moves past its estimate of the boundary: a
# point exactly on the boundary is not adversarial.
_BEYOND = 0.02


@ATTACKS.register("fab_t")
def fab_t(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm = "linf",
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
    """Fast Adaptive Boundary attack: small perturbations, by steps to a linearized boundary.

    Algorithm 1 of Croce & Hein, "Minimally distorted adversarial examples with a fast adaptive
    boundary attack", ICML 2020, toward one class per run: each of the ``target_classes`` wrong
    classes with the largest logits on the image, largest first. An image leaves the batch at the
    first misclassified point within ``eps``. The defaults are AutoAttack's; the paper's final
    search is added to it.

    Args:
        eps: largest distance that counts, >= 0, on images in [0, 1]. None: every distance counts,
            no image leaves the batch, and the result is an upper bound on the distance to the
            decision boundary.
        steps: number of steps in a run, >= 0, each of two forward passes and one backward pass.
        restarts: number of runs for each target, >= 1. The first starts from the image, the others
            from a uniform point within half the distance of the closest point found, at most
            half of ``eps``.
        target_classes: number of targets, >= 1; at most K - 1 are used.
        alpha_max: largest weight of the image's own projection in a step, in [0, 1] (eq. 9).
        eta: factor by which steps overshoot the linearized boundary, >= 1.
        beta: factor on a misclassified point's difference from the image before the next step, in
            (0, 1].

    Other arguments and errors are those of :func:`~sprout_fast.attacks.pgd.pgd`.

    Returns:
        Images of the same shape and dtype in [0, 1]: the closest misclassified point found, or the
        image itself if there is none within ``eps``.

    >>> model = torch.nn.Flatten()  # the two channels are the logits
    >>> images, labels = torch.tensor([[[[0.75]], [[0.25]]]]), torch.tensor([0])
    >>> fab_t(model, images, labels, eps=0.375).flatten()
    tensor([0.4875, 0.5125])
    """
    _check("fab_t", norm, eps, steps, restarts, alpha_max, eta, beta)
    check_ints("fab_t", 1, target_classes=target_classes)
    with borrowed("fab_t", model, images, labels, generator, seed) as (images, labels, generator):
        if len(images) == 0:
            return images
        search = _Search(model, images, labels, norm, eps)
        for targets in likeliest_wrong(search.clean_logits, labels, target_classes).unbind(1):
            for restart in range(restarts):
                start = search.near(generator) if restart > 0 else images
                search.run(start, targets, steps, alpha_max, eta, beta)
                search.finish()
        return search.found()


@ATTACKS.register("fab")
def fab(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm = "linf",
    eps: float | None = 8 / 255,
    steps: int = 100,
    restarts: int = 5,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> Tensor:
    """Fast Adaptive Boundary attack, toward the class whose boundary is closest in each step.

    It is :func:`fab_t` with that choice (eq. 6 of Croce & Hein, "Minimally distorted adversarial
    examples with a fast adaptive boundary attack", ICML 2020), which needs K backward passes per
    step for K classes. The defaults are those of AutoAttack's version ``plus``.

    Args:
        restarts: number of runs, >= 1.

    Other arguments, the result and errors are those of :func:`fab_t`.

    >>> model = torch.nn.Flatten()  # the two channels are the logits
    >>> images, labels = torch.tensor([[[[0.75]], [[0.25]]]]), torch.tensor([0])
    >>> fab(model, images, labels, eps=0.375).flatten()
    tensor([0.4875, 0.5125])
    """
    _check("fab", norm, eps, steps, restarts, alpha_max, eta, beta)
    with borrowed("fab", model, images, labels, generator, seed) as (images, labels, generator):
        if len(images) == 0:
            return images
        search = _Search(model, images, labels, norm, eps)
        for restart in range(restarts):
            start = search.near(generator) if restart > 0 else images
            search.run(start, None, steps, alpha_max, eta, beta)
            search.finish()
        return search.found()


def _check(
    name: str,
    norm: str,
    eps: float | None,
    steps: int,
    restarts: int,
    alpha_max: float,
    eta: float,
    beta: float,
) -> None:
    BALLS.look_up(norm)
    check_floats(name, eps=eps or 0)
    check_ints(name, 0, steps=steps)
    check_ints(name, 1, restarts=restarts)
    for option, value, expected, fits in (
        ("alpha_max", alpha_max, "a number >= 0 and <= 1", 0 <= alpha_max <= 1),
        ("eta", eta, "a finite number >= 1", 1 <= eta < math.inf),
        ("beta", beta, "a number > 0 and <= 1", 0 < beta <= 1),
    ):
        if not fits:
            raise ValueError(f"{name}: {option}: got {value}, expected {expected}")


class _Search:
    """The closest misclassified points found so far, and the runs that look for closer ones."""

    def __init__(
        self, model: nn.Module, images: Tensor, labels: Tensor, norm: Norm, eps: float | None
    ) -> None:
        self.model, self.images, self.eps = model, images, eps
        self.norm: Norm = norm
        self.ball = BALLS[norm]
        self.active = ActiveSet(images, labels)  # its adversarial: the closest points
        with torch.no_grad():
            self.clean_logits = model(images)
        self.active.drop(images, self.clean_logits)
        self.clean_margin = margin(self.clean_logits, labels)
        # Distance, float64 [B], and margin [B] of the closest points.
        self.distance = torch.full_like(labels, torch.inf, dtype=torch.float64)
        self.margin = torch.full_like(self.distance, torch.nan, dtype=images.dtype)

    def near(self, generator: torch.Generator) -> Tensor:
        """Draw points within half the distance of the closest found so far and half of eps."""
        radius = self.distance.clamp(max=1 if self.eps is None else self.eps) / 2
        # Scaled down from a larger ball: then segments to points in [0,1] stay in [0,1].
        largest = max(radius.max().item(), 1.0)
        away = (self.ball.uniform(self.images, largest, generator) - self.images) / largest
        return self.images + radius.to(away.dtype)[:, None, None, None] * away

    def run(
        self,
        start: Tensor,
        targets: Tensor | None,
        steps: int,
        alpha_max: float,
        eta: float,
        beta: float,
    ) -> None:
        """Run Algorithm 1 on the active images, ``start`` [B,C,H,W].

        ``targets`` is int64 [B], or None for the class with the closest boundary in each step.
        """
        active = self.active
        points, center = start[active.rows], self.images[active.rows]

        def towards_target(logits: Tensor) -> Tensor:
            assert targets is not None
            return margin(logits, active.labels, targets[active.rows])

        for _ in range(steps):
            if len(active) == 0:
                return
            if targets is None:
                value, gradient = _closest_boundary(self.model, points, active.labels, self.norm)
            else:
                _, value, gradient = value_and_gradient(self.model, points, towards_target)
            with torch.no_grad():
                points = _step(points, center, value, gradient, self.norm, alpha_max, eta)
                misclassified, kept = self.record(points, self.model(points))
                pulled = center + beta * (points - center)
                points = torch.where(misclassified[:, None, None, None], pulled, points)
                if len(kept) < len(points):
                    points, center = points[kept], center[kept]

    @torch.no_grad()
    def finish(self) -> None:
        """Run the final search, on the segment from each image to the closest point found.

        The margin is assumed to be linear between the outermost point that is correctly classified
        and the innermost one that is not; the next point is slightly beyond its zero.
        """
        active = self.active
        rows = active.rows
        inner, outer = self.images[rows], active.adversarial[rows]
        inner_margin, outer_margin = self.clean_margin[rows], self.margin[rows]
        for _ in range(_FINAL_STEPS):
            if len(active) == 0:
                return
            part = inner_margin / (inner_margin - outer_margin)
            part = part.nan_to_num(nan=1).clamp(0, 1)  # NaN: no point found yet
            part = (part + _BEYOND * (1 - part))[:, None, None, None]
            points = (inner + part * (outer - inner)).clamp(0, 1)
            logits = self.model(points)
            value = margin(logits, active.labels)
            misclassified, kept = self.record(points, logits)
            inner_margin = torch.where(misclassified, inner_margin, value)[kept]
            outer_margin = torch.where(misclassified, value, outer_margin)[kept]
            wide = misclassified[:, None, None, None]
            inner = torch.where(wide, inner, points)[kept]
            outer = torch.where(wide, points, outer)[kept]

    def record(self, points: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Store misclassified points that are closer, and remove images with one within eps.

        Returns which points are misclassified, and the rows to keep.
        """
        active = self.active
        misclassified = is_misclassified(logits, active.labels)
        which = misclassified.nonzero().flatten()
        rows = active.rows[which]
        distance = self.ball.distance(points[which], self.images[rows])
        closer = distance < self.distance[rows]
        which, rows = which[closer], rows[closer]
        active.adversarial[rows] = points[which]
        self.distance[rows] = distance[closer]
        self.margin[rows] = margin(logits[which], active.labels[which])
        within = torch.zeros_like(misclassified)
        if self.eps is not None:
            within = self.distance[active.rows] <= self.eps
        return misclassified, active.remove(within)

    def found(self) -> Tensor:
        """Return the closest points that are within eps, else the images: [B,C,H,W]."""
        eps = torch.inf if self.eps is None else self.eps
        within = (self.distance <= eps)[:, None, None, None]
        return torch.where(within, self.active.adversarial, self.images)


def _closest_boundary(
    model: nn.Module, points: Tensor, labels: Tensor, norm: Norm
) -> tuple[Tensor, Tensor]:
    """Return the margin [A] of the class with the closest linearized boundary, and its gradient.

    The distance is the margin divided by the dual norm of its gradient; boundaries of classes whose
    margin has no gradient are infinitely far away.
    """
    points = points.detach().requires_grad_()
    logits = model(points)
    margins = logits - logits.gather(1, labels[:, None])
    dual = _order({"linf": "l1", "l2": "l2", "l1": "linf"}[norm])
    closest = torch.full_like(logits[:, 0], torch.inf)
    value, gradient = torch.zeros_like(closest), torch.zeros_like(points)
    for target in range(logits.shape[1]):
        own = margins[:, target]
        if own.requires_grad:
            (slope,) = torch.autograd.grad(
                own.sum(), points, retain_graph=True, materialize_grads=True
            )
        else:
            slope = torch.zeros_like(points)
        length = torch.linalg.vector_norm(slope.flatten(1), ord=dual, dim=1)
        distance = (own.detach().abs() / length).nan_to_num(nan=torch.inf)
        closer = (distance < closest) & (labels != target)
        closest = torch.where(closer, distance, closest)
        value = torch.where(closer, own.detach(), value)
        gradient = torch.where(closer[:, None, None, None], slope, gradient)
    return value, gradient


def _order(norm: str) -> float:
    return {"linf": torch.inf, "l2": 2, "l1": 1}[norm]


def _step(
    points: Tensor,
    center: Tensor,
    value: Tensor,
    gradient: Tensor,
    norm: Norm,
    alpha_max: float,
    eta: float,
) -> Tensor:
    """Step past the linearized decision boundary, biased toward the image: equations (7) to (9).

    ``points`` [A,C,H,W] are the iterates, ``center`` [A,C,H,W] the images, ``value`` [A] is the
    target's logit minus the label's at ``points``, and ``gradient`` [A,C,H,W] its gradient there.
    """
    # Dividing value and gradient by a number leaves the plane unchanged, and without it products
    # of small gradients would underflow.
    normal = gradient.nan_to_num(nan=0, posinf=0, neginf=0)
    largest = normal.abs().amax((1, 2, 3)).clamp_min(torch.finfo(normal.dtype).tiny)
    normal, value = normal / largest[:, None, None, None], (value / largest).nan_to_num(nan=0)
    value_at_center = value + (normal * (center - points)).sum((1, 2, 3))
    both = _to_plane(
        torch.cat([points, center]).flatten(1),
        torch.cat([normal, normal]).flatten(1),
        torch.cat([value, value_at_center]),
        norm,
    )
    length = torch.linalg.vector_norm(both, ord=_order(norm), dim=1)
    own, of_image = length.clamp_min(1e-8).chunk(2)  # distances of iterate and image
    alpha = (own / (own + of_image)).clamp(max=alpha_max)[:, None, None, None]
    to_plane, center_to_plane = both.view(2, *points.shape)
    ahead = (1 - alpha) * (points + eta * to_plane) + alpha * (center + eta * center_to_plane)
    return ahead.clamp(0, 1)


def _to_plane(points: Tensor, normal: Tensor, value: Tensor, norm: Norm) -> Tensor:
    """Return the shortest d with value + <normal, d> = 0 and points + d in [0,1]: eqs. (3), (4).

    If the plane misses the box, d leads to the box's corner closest to the plane.

    Every element moves against the sign of value * normal, at a speed of 1 (linf) or |normal| (l2),
    until it reaches the box. The distance by which the plane comes closer is an increasing,
    concave, piecewise linear function of time. So Newton's method from 0 approaches the plane from
    below, on another piece in every step, and is exact on the last one. In the l1 norm the elements
    with the largest |normal| move first, each until it reaches the box.

    ``points``, ``normal`` and d are [A,N], ``value`` is [A].
    """
    direction = -value.sign()[:, None] * normal.sign()
    room = torch.where(direction > 0, 1 - points, points) * direction.abs()
    pull = normal.abs()
    if norm == "l1":
        return direction * _fewest_moves(pull, room, value.abs())
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


def _fewest_moves(pull: Tensor, room: Tensor, needed: Tensor) -> Tensor:
    """Return the moves in [0, room] with <pull, moves> = needed and the smallest sum, [A,N].

    If there are none, all of ``room`` is returned.
    """
    pull, order = pull.sort(dim=1, descending=True, stable=True)
    at_most = pull * room.gather(1, order)
    left = (needed[:, None] - at_most.cumsum(1) + at_most).clamp_min(0)
    moves = torch.minimum(left, at_most) / pull.clamp_min(torch.finfo(pull.dtype).tiny)
    return torch.zeros_like(room).scatter(1, order, torch.minimum(moves, room.gather(1, order)))
