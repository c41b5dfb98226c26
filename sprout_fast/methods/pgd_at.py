"""PGD adversarial training."""

from __future__ import annotations

from torch import Tensor

from sprout_fast.methods.base import Method, MethodSetting, Optimize
from sprout_fast.methods.linf import LinfAttack, cross_entropy_of, unit_images
from sprout_fast.methods.losses import CrossEntropy


class AdversarialTraining(Method, name="pgd_at"):
    """PGD adversarial training (Madry et al. 2018): x̃ = PGD_eps(x), ỹ = y, g = h = I.

    As in the original, the attack starts from a uniform point of the ball, and the network is in
    training mode during the attack.

    Args:
        eps: radius of the l-inf ball, on images in [0, 1].
        step_size: length of the attack's steps, on images in [0, 1].
        attack_steps: number of PGD steps, each a forward and a backward pass.
    """

    capturable = True

    def __init__(
        self,
        setting: MethodSetting,
        *,
        eps: float = 8 / 255,
        step_size: float = 2 / 255,
        attack_steps: int = 7,
    ) -> None:
        super().__init__(setting.mixer(), CrossEntropy())
        self.attack = LinfAttack(eps, step_size, attack_steps, training_mode=True)

    def training_step(self, optimize: Optimize, images: Tensor, labels: Tensor) -> None:
        adversarial = self.attack(optimize.network, unit_images(images), cross_entropy_of(labels))
        inputs, target = self.mixer(adversarial, labels)
        optimize(inputs, target, self.loss)
