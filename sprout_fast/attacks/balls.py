"""The balls that perturbations stay in: ``BALLS["linf"]`` and ``BALLS["l2"]``, both within [0,1].

Images are [B,C,H,W]; lengths are in the units of images in [0,1]; ``eps`` is one number.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from sprout_fast.errors import UserError
from sprout_fast.ops import pgd_step_


class Ball(Protocol):
    """Geometry of perturbations of one norm."""

    name: str

    def distance(self, images: Tensor, others: Tensor) -> Tensor:
        """Length of each difference, computed in float64: float64 [B]."""
        ...

    def project(self, images: Tensor, centre: Tensor, eps: float) -> Tensor:
        """The images moved into the ball around ``centre`` and into [0,1]."""
        ...

    def uniform(self, centre: Tensor, eps: float, generator: torch.Generator | None) -> Tensor:
        """A uniform point of the ball around each of ``centre``, clipped to [0,1].

        Drawn on the generator's device; None takes torch's own on the images' device.
        """
        ...

    def direction(self, gradient: Tensor) -> Tensor:
        """Of steepest ascent, of length 1; 0 where the gradient is 0."""
        ...

    def step(
        self, images: Tensor, gradient: Tensor, centre: Tensor, *, step_size: float, eps: float
    ) -> Tensor:
        """``step_size`` along `direction`, and `project`."""
        ...


class Linf:
    """max |difference| <= eps, exactly: of every element also in float64."""

    name = "linf"

    def distance(self, images: Tensor, others: Tensor) -> Tensor:
        return (images.double() - others.double()).abs().flatten(1).amax(1)

    def project(self, images: Tensor, centre: Tensor, eps: float) -> Tensor:
        return pgd_step_(images.clone(), images, centre, step=0, eps=eps)

    def uniform(self, centre: Tensor, eps: float, generator: torch.Generator | None) -> Tensor:
        noise = _draw(torch.rand, centre, generator).mul_(2 * eps).sub_(eps)
        return self.project(centre + noise, centre, eps)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign()  # of NaN it is 0

    def step(
        self, images: Tensor, gradient: Tensor, centre: Tensor, *, step_size: float, eps: float
    ) -> Tensor:
        return pgd_step_(images.clone(), gradient, centre, step=step_size, eps=eps)


class L2:
    """Euclidean length of the difference <= eps, exactly, of what float64 makes of the images.

    What rounding could add is taken off the radius first: 2e-6 for float32 images of 3x32x32.
    """

    name = "l2"

    def distance(self, images: Tensor, others: Tensor) -> Tensor:
        return (images.double() - others.double()).flatten(1).norm(dim=1)

    def project(self, images: Tensor, centre: Tensor, eps: float) -> Tensor:
        # [0,1] first: it only shortens, and scaling towards a centre in [0,1] stays in it.
        images = images.clamp(0, 1)
        difference = images - centre
        length = torch.linalg.vector_norm(
            difference, dim=(1, 2, 3), keepdim=True, dtype=torch.float64
        )
        unit = torch.finfo(images.dtype).eps
        # Each pixel in [0,1] is rounded by unit/4 at most, the rest is relative to eps.
        reached = eps - centre[:1].numel() ** 0.5 * unit * (0.25 + 3 * eps)
        scale = (max(reached, 0) / length).to(images.dtype)
        # What is inside stays to the bit. The difference's own rounding counts as outside.
        inside = length <= eps * (1 - unit)
        return torch.where(inside, images, (centre + scale * difference).clamp(0, 1))

    def uniform(self, centre: Tensor, eps: float, generator: torch.Generator | None) -> Tensor:
        direction = self.direction(_draw(torch.randn, centre, generator))
        length = _draw(torch.rand, centre[:, :1, :1, :1], generator)
        length = eps * length ** (1 / max(centre[0].numel(), 1)) if len(centre) else length
        return self.project(centre + length * direction, centre, eps)

    def direction(self, gradient: Tensor) -> Tensor:
        gradient = gradient.nan_to_num(nan=0)  # infinities become the largest numbers
        # By the largest first: the squares of small gradients would be 0, of large ones infinite.
        gradient = gradient / gradient.abs().amax((1, 2, 3), keepdim=True)
        length = torch.linalg.vector_norm(gradient, dim=(1, 2, 3), keepdim=True)
        return (gradient / length).nan_to_num(nan=0)

    def step(
        self, images: Tensor, gradient: Tensor, centre: Tensor, *, step_size: float, eps: float
    ) -> Tensor:
        moved = images + step_size * self.direction(gradient).to(images.dtype)
        return self.project(moved, centre, eps)


BALLS: dict[str, Ball] = {ball.name: ball for ball in (Linf(), L2())}


def ball_of(norm: str) -> Ball:
    """``BALLS[norm]``, or a UserError that names what is taken."""
    if norm not in BALLS:
        raise UserError(f"norm: got {norm!r}, takes one of {', '.join(BALLS)}")
    return BALLS[norm]


def _draw(function, like: Tensor, generator: torch.Generator | None) -> Tensor:
    device = like.device if generator is None else generator.device
    drawn = function(like.shape, generator=generator, device=device, dtype=like.dtype)
    return drawn.to(like.device)
