"""TRADES."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sprout_fast.methods.base import Method, MethodSetting, Optimize
from sprout_fast.methods.linf import LinfAttack, unit_images
from sprout_fast.methods.losses import CrossEntropy
from sprout_fast.models.mode import evaluation_mode
from sprout_fast.nn.mixup import MixupTarget


class Trades(Method, name="trades"):
    """TRADES (Zhang et al. 2019): x̃ in the ball maximizes KL(f(x) || f(x̃)), ỹ = y.

    The loss is the original's, CE(f(x), y) + kl_weight KL(f(x) || f(x̃)). Table 1 abbreviates it to
    g = I, h(y) = (1 - alpha) y + alpha f(x̃): one label between the true one and the network's
    prediction on the attacked image, where the original has two terms on two images. As in the
    original, the attack starts close to the image, and the network is in eval mode during the
    attack.

    Args:
        eps: radius of the l-inf ball, on images in [0, 1].
        step_size: length of the attack's steps, on images in [0, 1].
        attack_steps: number of PGD steps, each a forward and a backward pass.
        kl_weight: weight of the KL term, the paper's 1/lambda, which is 6 on CIFAR-10.
    """

    capturable = True

    def __init__(
        self,
        setting: MethodSetting,
        *,
        eps: float = 0.031,
        step_size: float = 0.007,
        attack_steps: int = 10,
        kl_weight: float = 6.0,
    ) -> None:
        super().__init__(setting.mixer(), CrossEntropy())
        if not 0 <= kl_weight < float("inf"):
            raise ValueError(f"kl_weight: got {kl_weight}, expected a finite number >= 0")
        self.attack = LinfAttack(eps, step_size, attack_steps, training_mode=False)
        self.kl_weight = kl_weight

    def training_step(self, optimize: Optimize, images: Tensor, labels: Tensor) -> None:
        images = unit_images(images)
        with torch.no_grad(), evaluation_mode(optimize.network):
            prediction = optimize.network(images).float().softmax(1)
        # At the image itself the divergence is 0 and its gradient vanishes.
        start = images + 0.001 * torch.randn_like(images)
        adversarial = self.attack(
            optimize.network, images, lambda logits: _divergence(prediction, logits), start
        )
        clean, target = self.mixer(images, labels)
        attacked, _ = self.mixer(adversarial, labels)
        optimize((clean, attacked), target, self._objective)

    def _objective(self, logits: Sequence[Tensor], target: MixupTarget) -> Tensor:
        clean, attacked = logits
        divergence = _divergence(clean.float().softmax(1), attacked).mean()
        return self.loss(clean, target) + self.kl_weight * divergence


def _divergence(prediction: Tensor, logits: Tensor) -> Tensor:
    """Return KL(prediction || softmax(logits)) for each row, in nats."""
    return F.kl_div(logits.float().log_softmax(1), prediction, reduction="none").sum(1)
