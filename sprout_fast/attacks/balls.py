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

Norm = Literal["linf", "l2"]


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


BALLS.register("linf")(Linf())
BALLS.register("l2")(L2())


def _draw(
    function: Callable[..., Tensor], like: Tensor, generator: torch.Generator | None
) -> Tensor:
    device = like.device if generator is None else generator.device
    drawn = function(like.shape, generator=generator, device=device, dtype=like.dtype)
    return drawn.to(like.device)
