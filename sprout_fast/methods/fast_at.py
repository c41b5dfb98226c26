"""Fast adversarial training (Wong et al. 2020)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from sprout_fast.attacks.pgd import pgd
from sprout_fast.methods.base import Method, MethodSetting, Optimize
from sprout_fast.methods.linf import LinfAttack, cross_entropy_of, unit_images
from sprout_fast.methods.losses import CrossEntropy
from sprout_fast.models import evaluation_mode

# Accuracy under one step above that under PGD by more than this: the network has learnt to bend its
# gradient at the one step and nowhere else. (Wong et al. stop where PGD accuracy falls by 0.2.)
OVERFITTING_GAP = 0.2


class FastAdversarialTraining(Method, name="fast_at"):
    """Fast adversarial training (Wong et al. 2020): x̃ = one step from a uniform point of the ball,
    ỹ = y, g = h = I.

    After each epoch it attacks the last batch by one step and by PGD-10: where the first hardly
    hurts and the second does, training has fallen into catastrophic overfitting, and it warns.

    Args:
        setting: see `MethodSetting`.
        eps: radius of the l-inf ball, on images in [0,1].
        step_size: of the attack's one step, on images in [0,1]; the paper takes 1.25 eps.
    """

    def __init__(
        self, setting: MethodSetting, *, eps: float = 8 / 255, step_size: float = 10 / 255
    ) -> None:
        super().__init__(setting.mixer(), CrossEntropy())
        self.attack = LinfAttack(eps, step_size, steps=1, training_mode=True)
        self._last_batch: tuple[Tensor, Tensor] | None = None
        self._one_step_accuracy = self._pgd_accuracy = float("nan")

    def training_step(self, optimize: Optimize, images: Tensor, labels: Tensor) -> None:
        images = unit_images(images)
        adversarial = self.attack(optimize.network, images, cross_entropy_of(labels))
        optimize(*self.mixer(adversarial, labels), self.loss)
        self._last_batch = images, labels

    def epoch_finished(self, optimize: Optimize) -> None:
        if self._last_batch is None:  # resumed at the epoch's end
            return
        images, labels = self._last_batch
        network, eps = optimize.network, self.attack.eps
        # Last iterates: overfitting shows where the step's own end is right, wherever it came by.
        last = partial(pgd, network, images, labels, eps=eps, early_stop=False)
        one_step = last(steps=1, step_size=self.attack.step_size)
        ten_steps = last(steps=10)
        with torch.no_grad(), evaluation_mode(network):
            self._one_step_accuracy, self._pgd_accuracy = (
                (network(attacked).argmax(1) == labels).float().mean().item()
                for attacked in (one_step, ten_steps)
            )

    def statistics(self) -> dict[str, float]:
        """Accuracy on the epoch's last training batch under the one step and under PGD-10."""
        return {
            "one_step_accuracy": self._one_step_accuracy,
            "pgd_accuracy": self._pgd_accuracy,
        }

    def warning(self) -> str | None:
        """Catastrophic overfitting."""
        if not self._one_step_accuracy - self._pgd_accuracy > OVERFITTING_GAP:
            return None
        return (
            f"catastrophic overfitting: {100 * self._one_step_accuracy:.0f} % right under the one"
            f" step that it trains with, {100 * self._pgd_accuracy:.0f} % under PGD-10 (on the last"
            " training batch); go back to an earlier checkpoint with a smaller --step-size or --eps"
        )
