"""What the attack-based rows share: images on [0,1] and sign-gradient ascent in the l-inf ball."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sprout_fast.attacks.balls import BALLS
from sprout_fast.attacks.pgd import input_gradient
from sprout_fast.models import evaluation_mode, frozen_parameters


def unit_images(images: Tensor) -> Tensor:
    """Images as attacks take them: float32 in [0,1]; uint8 is divided by 255."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def check_unit(name: str, value: float) -> None:
    """Raise ``ValueError`` for a length that is not in [0,1]."""
    if not 0 <= value <= 1:
        raise ValueError(
            f"{name} must be in [0, 1], where images are (8/255 = 0.0314), got {value}"
        )


@dataclass(frozen=True)
class LinfAttack:
    """Attack within a training step: ``steps`` of ``step_size`` in the ball of ``eps`` and [0,1].

    Args:
        eps, step_size: in [0,1].
        steps: >= 1.
        training_mode: with batch statistics, as the network is while it trains, or in eval mode
            with the running ones. A forward pass in training mode also moves the running ones.

    Raises:
        ValueError: a number outside its range.
    """

    eps: float
    step_size: float
    steps: int
    training_mode: bool

    def __post_init__(self) -> None:
        for name in ("eps", "step_size"):
            check_unit(name, getattr(self, name))
        if self.steps < 1:
            raise ValueError(f"attack_steps must be at least 1, got {self.steps}")

    def __call__(
        self,
        network: nn.Module,
        images: Tensor,
        objective: Callable[[Tensor], Tensor],
        start: Tensor | None = None,
    ) -> Tensor:
        """Images in the ball around ``images`` that raise ``objective(logits)``, a sum over rows.

        ``start`` is where the ascent begins; None takes a uniform point of the ball, from torch's
        own generator.
        """
        ball = BALLS["linf"]
        adversarial = ball.uniform(images, self.eps, None) if start is None else start
        mode = contextlib.nullcontext() if self.training_mode else evaluation_mode(network)
        with mode, frozen_parameters(network):
            for _ in range(self.steps):
                gradient, _ = input_gradient(network, adversarial, objective)
                adversarial = ball.step(
                    adversarial, gradient, images, step_size=self.step_size, eps=self.eps
                )
        return adversarial.detach()


def cross_entropy_of(labels: Tensor) -> Callable[[Tensor], Tensor]:
    """The untargeted objective: the summed cross entropy of ``labels``.

    A sum, so that one image's gradient does not shrink with the batch that it is in.
    """
    return lambda logits: F.cross_entropy(logits.float(), labels, reduction="sum")
