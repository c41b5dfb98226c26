"""Norm balls that perturbations stay in, each intersected with [0, 1].

Images are [B, C, H, W], lengths are in the units of images in [0, 1], ``eps`` is one number for
the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor

from sprout_fast.ops.pgd_step import pgd_step_
from sprout_fast.registry import Registry

Norm = Literal["linf", "l2", "l1"]


class Ball(Protocol):
    """Geometry of the perturbations of one norm."""

    def distance(self, images: Tensor, others: Tensor) -> Tensor:
        """Return the norm of each difference, computed in float64: float64 [B]."""
        ...

    def project(self, images: Tensor, center: Tensor, eps: float) -> Tensor:
        """Move images into the ball around ``center`` and into [0, 1]."""
        ...

    def uniform(self, center: Tensor, eps: float, generator: torch.Generator | None) -> Tensor:
        """Draw a uniform point of the ball around each image of ``center``, clipped to [0, 1].

        It is drawn on the generator's device; None uses torch's own on the images' device.
        """
        ...

    def direction(self, gradient: Tensor) -> Tensor:
        """Return the direction of steepest ascent, of norm 1; 0 where the gradient is 0 or NaN."""
        ...

    def step(
        self, images: Tensor, gradient: Tensor, center: Tensor, *, step_size: float, eps: float
    ) -> Tensor:
        """Move images by ``step_size`` along :meth:`direction`, then :meth:`project` them."""
        direction = self.direction(gradient).to(images.dtype)
        return self.project(images + step_size * direction, center, eps)


#: Balls by the name of their norm.
BALLS: Registry[Ball] = Registry("norm")


class Linf(Ball):
    """Perturbations with max |difference| <= eps, exactly, for every element also in float64."""

    def distance(self, images: Tensor, others: Tensor) -> Tensor:
        return (images.double() - others.double()).abs().flatten(1).amax(1)

    def project(self, images: Tensor, center: Tensor, eps: float) -> Tensor:
        return pgd_step_(images.clone(), images, center, step=0, eps=eps)

    def uniform(self, center: Tensor, eps: float, generator: torch.Generator | None) -> Tensor:
        noise = _draw(torch.rand, center, generator).mul_(2 * eps).sub_(eps)
        return self.project(center + noise, center, eps)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def step(
        self, images: Tensor, gradient: Tensor, center: Tensor, *, step_size: float, eps: float
    ) -> Tensor:
        return pgd_step_(images.clone(), gradient, center, step=step_size, eps=eps)


class L2(Ball):
    """Perturbations whose Euclidean length, computed in float64, is <= eps exactly.

    The radius is first reduced by what rounding could add: 2e-6 for float32 images of 3x32x32.
    """

    def distance(self, images: Tensor, others: Tensor) -> Tensor:
        return (images.double() - others.double()).flatten(1).norm(dim=1)

    def project(self, images: Tensor, center: Tensor, eps: float) -> Tensor:
        # [0,1] first: it only shortens, and scaling toward a center in [0,1] stays in it.
        images = images.clamp(0, 1)
        difference = images - center
        length = torch.linalg.vector_norm(
            difference, dim=(1, 2, 3), keepdim=True, dtype=torch.float64
        )
        unit = torch.finfo(images.dtype).eps
        # Each pixel in [0,1] is rounded by unit/4 at most, the rest is relative to eps.
        reached = eps - center[:1].numel() ** 0.5 * unit * (0.25 + 3 * eps)
        scale = (max(reached, 0) / length).to(images.dtype)
        # Points inside stay bit for bit. The difference's own rounding counts as outside.
        inside = length <= eps * (1 - unit)
        return torch.where(inside, images, (center + scale * difference).clamp(0, 1))

    def uniform(self, center: Tensor, eps: float, generator: torch.Generator | None) -> Tensor:
        direction = self.direction(_draw(torch.randn, center, generator))
        length = _draw(torch.rand, center[:, :1, :1, :1], generator)
        length = eps * length ** (1 / max(center[0].numel(), 1)) if len(center) else length
        return self.project(center + length * direction, center, eps)

    def direction(self, gradient: Tensor) -> Tensor:
        gradient = gradient.nan_to_num(nan=0)  # infinities become the largest numbers
        # Divided by the largest first: squares of small gradients would be 0, of large infinite.
        gradient = gradient / gradient.abs().amax((1, 2, 3), keepdim=True)
        length = torch.linalg.vector_norm(gradient, dim=(1, 2, 3), keepdim=True)
        return (gradient / length).nan_to_num(nan=0)


class L1(Ball):
    """Perturbations whose absolute values, added in float64, are <= eps exactly.

    Projection, steps and thereby the attacks consider ball and box together, since almost every
    l1-ball reaches beyond [0, 1] (Croce & Hein, "Mind the box: l1-APGD for sparse adversarial
    attacks on image classifiers", ICML 2021).
    """

    def distance(self, images: Tensor, others: Tensor) -> Tensor:
        return (images.double() - others.double()).abs().flatten(1).sum(1)

    def project(self, images: Tensor, center: Tensor, eps: float) -> Tensor:
        """Return the nearest points of ball and box, which :meth:`Ball.project` need not be.

        The nearest point moves every pixel by min(max(|d| - t, 0), room), with d its difference
        from the center, room what [0, 1] leaves in that direction, and t >= 0 such that the moves
        add up to eps. Their sum is a piecewise linear, decreasing function of t, with corners at
        |d| - room and |d|.
        """
        inside = images.clamp(0, 1)
        if len(images) == 0:
            return inside
        origin = center.flatten(1).double()
        difference = images.flatten(1).double() - origin
        size = difference.abs()
        room = torch.where(difference > 0, 1 - origin, origin)
        moves = torch.minimum(size, room)
        corners, order = torch.cat([(size - room).clamp_min(0), size], 1).sort(1)
        # The number of pixels that move less as t increases behind each corner.
        moving = torch.where(order < size.shape[1], 1.0, -1.0).double().cumsum(1)
        decrease = torch.zeros_like(corners)
        decrease[:, 1:] = (moving[:, :-1] * corners.diff(dim=1)).cumsum(1)
        # t lies behind the last corner at which the sum is still at least eps.
        excess = moves.sum(1, keepdim=True) - eps
        last = (decrease <= excess).sum(1, keepdim=True).sub(1).clamp_min(0)
        left = (excess - decrease.gather(1, last)) / moving.gather(1, last).clamp_min(1)
        threshold = corners.gather(1, last) + left
        moves = torch.minimum((size - threshold).clamp_min(0), room)
        # What the sums' rounding adds.
        tiny = torch.finfo(torch.float64).tiny
        moves *= (eps * (1 - 1e-12) / moves.sum(1, keepdim=True).clamp_min(tiny)).clamp(max=1)
        points = (origin + difference.sign() * moves).to(images.dtype)
        # Rounded toward the center: no pixel has moved too far.
        beyond = (points.double() - origin).abs() > moves
        points = torch.where(beyond, points.nextafter(origin.to(images.dtype)), points)
        within = self.distance(inside, center) <= eps
        return torch.where(within[:, None, None, None], inside, points.view_as(images))

    def uniform(self, center: Tensor, eps: float, generator: torch.Generator | None) -> Tensor:
        # Exponential variables divided by the sum of one more of them are uniform on the simplex.
        drawn = -_draw(torch.rand, center, generator).double().neg().log1p()
        more = -_draw(torch.rand, center[:, :1, :1, :1], generator).double().neg().log1p()
        total = drawn.sum((1, 2, 3), keepdim=True) + more
        signs = torch.where(_draw(torch.rand, center, generator) < 0.5, -1.0, 1.0)
        noise = (eps * signs * drawn / total).to(center.dtype)
        return self.project(center + noise, center, eps)

    def direction(self, gradient: Tensor) -> Tensor:
        flat = gradient.nan_to_num(nan=0).flatten(1)
        if flat.numel() == 0:
            return torch.zeros_like(gradient)
        largest = flat.abs().argmax(1, keepdim=True)
        steepest = torch.zeros_like(flat).scatter(1, largest, flat.gather(1, largest).sign())
        return torch.zeros_like(gradient).copy_(steepest.view_as(gradient))

    def step(
        self, images: Tensor, gradient: Tensor, center: Tensor, *, step_size: float, eps: float
    ) -> Tensor:
        """Take the steepest step within [0, 1], then :meth:`project` it.

        That is to the box's border in the pixels with the largest gradients, until the moves add
        up to ``step_size``.
        """
        gradient, points = gradient.nan_to_num(nan=0).flatten(1), images.flatten(1)
        room = torch.where(gradient > 0, 1 - points, points) * gradient.sign().abs()
        order = gradient.abs().sort(dim=1, descending=True, stable=True).indices
        room = room.gather(1, order)
        moves = torch.minimum((step_size - room.cumsum(1) + room).clamp_min(0), room)
        moves = gradient.sign() * torch.zeros_like(room).scatter(1, order, moves)
        return self.project(images + moves.view_as(images).to(images.dtype), center, eps)


BALLS.register("linf")(Linf())
BALLS.register("l2")(L2())
BALLS.register("l1")(L1())


def _draw(
    function: Callable[..., Tensor], like: Tensor, generator: torch.Generator | None
) -> Tensor:
    device = like.device if generator is None else generator.device
    drawn = function(like.shape, generator=generator, device=device, dtype=like.dtype)
    return drawn.to(like.device)
