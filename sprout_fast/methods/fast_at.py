"""Fast adversarial training."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from sprout_fast.attacks.pgd import pgd
from sprout_fast.methods.base import MethodSetting, Optimize
from sprout_fast.methods.linf import unit_images
from sprout_fast.methods.pgd_at import AdversarialTraining
from sprout_fast.models.mode import evaluation_mode

# If accuracy under one step exceeds accuracy under PGD by more than this, the network has learned
# to defend against that step alone. (Wong et al. stop when PGD accuracy drops by 0.2.)
OVERFITTING_GAP = 0.2


class FastAdversarialTraining(AdversarialTraining, name="fast_at"):
    """Fast adversarial training (Wong et al. 2020): x̃ is one step from a uniform point of the ball.

    ỹ = y, g = h = I. After each epoch the last batch is attacked by one step and by PGD-10. If the
    network withstands the first but not the second, catastrophic overfitting has occurred, and a
    warning is issued.

    Args:
        eps: radius of the l-inf ball, on images in [0, 1].
        step_size: length of the attack's one step, on images in [0, 1]; the paper uses 1.25 eps.
    """

    capturable = True

    def __init__(
        self, setting: MethodSetting, *, eps: float = 8 / 255, step_size: float = 10 / 255
    ) -> None:
        super().__init__(setting, eps=eps, step_size=step_size, attack_steps=1)
        self._last_batch: tuple[Tensor, Tensor] | None = None
        self._accuracies = {"one_step_accuracy": float("nan"), "pgd_accuracy": float("nan")}

    def training_step(self, optimize: Optimize, images: Tensor, labels: Tensor) -> None:
        images = unit_images(images)
        super().training_step(optimize, images, labels)
        self._last_batch = images, labels

    def epoch_finished(self, optimize: Optimize) -> None:
        if self._last_batch is None:  # resumed at the end of an epoch
            return
        images, labels = self._last_batch
        network, eps = optimize.network, self.attack.eps
        # Last iterates, because overfitting shows at the end point of the single step: an attack
        # that stops early would also count a misclassified start.
        attack = partial(pgd, network, images, labels, eps=eps, early_stop=False)
        attacked = attack(steps=1, step_size=self.attack.step_size), attack(steps=10)
        with torch.no_grad(), evaluation_mode(network):
            for name, adversarial in zip(self._accuracies, attacked, strict=True):
                correct = network(adversarial).argmax(1) == labels
                self._accuracies[name] = correct.float().mean().item()

    def statistics(self) -> dict[str, float]:
        """Return accuracies under the one step and PGD-10 on the epoch's last training batch."""
        return dict(self._accuracies)

    def warning(self) -> str | None:
        """Return a warning about catastrophic overfitting, or None."""
        one_step, pgd_10 = self._accuracies.values()
        if not one_step - pgd_10 > OVERFITTING_GAP:
            return None
        return (
            f"catastrophic overfitting: accuracy on the last training batch is {100 * one_step:.0f}"
            f" % under the one-step attack used in training and {100 * pgd_10:.0f} % under PGD-10;"
            " return to an earlier checkpoint with a smaller step_size or eps"
        )
