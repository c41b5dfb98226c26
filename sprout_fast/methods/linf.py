"""Images in [0, 1] and sign-gradient ascent in the l-inf ball, for attack-based methods."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sprout_fast.attacks.balls import BALLS
from sprout_fast.attacks.base import value_and_gradient
from sprout_fast.models.mode import evaluation_mode, frozen_parameters


def unit_images(images: Tensor) -> Tensor:
    """Convert images to float32 in [0, 1], dividing uint8 images by 255.

    >>> unit_images(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([0., 1.])
    """
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def check_unit(name: str, value: float) -> None:
    """Raise ``ValueError`` unless 0 <= value <= 1."""
    if not 0 <= value <= 1:
        raise ValueError(
            f"{name}: got {value}, expected a number in [0, 1], the range of images "
            "(8/255 is 0.0314)"
        )


@dataclass(frozen=True)
class LinfAttack:
    """An attack within a training step: sign-gradient ascent in the l-inf ball and [0, 1].

    In training mode the network uses batch statistics and also updates the running ones.
    """

    eps: float
    step_size: float
    steps: int
    training_mode: bool

    def __post_init__(self) -> None:
        for name in ("eps", "step_size"):
            check_unit(name, getattr(self, name))
        if self.steps < 1:
            raise ValueError(f"attack_steps: got {self.steps}, expected an int >= 1")

    def __call__(
        self,
        network: nn.Module,
        images: Tensor,
        objective: Callable[[Tensor], Tensor],
        start: Tensor | None = None,
    ) -> Tensor:
        """Return images in the ball around ``images`` that increase ``objective(logits)``, [B].

        ``start`` is by default uniform in the ball, from torch's own generator.
        """
        ball = BALLS["linf"]
        adversarial = ball.uniform(images, self.eps, None) if start is None else start
        mode = contextlib.nullcontext() if self.training_mode else evaluation_mode(network)
        with mode, frozen_parameters(network):
            for _ in range(self.steps):
                gradient = value_and_gradient(network, adversarial, objective, scaled=True)[2]
                adversarial = ball.step(
                    adversarial, gradient, images, step_size=self.step_size, eps=self.eps
                )
        return adversarial.detach()


def cross_entropy_of(labels: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the untargeted objective: the cross entropy of ``labels`` for each image."""
    return lambda logits: F.cross_entropy(logits.float(), labels, reduction="none")
