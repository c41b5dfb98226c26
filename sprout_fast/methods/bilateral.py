"""Bilateral adversarial training."""

from __future__ import annotations

import torch
from torch import Tensor

from sprout_fast.methods.base import Method, MethodSetting, Optimize
from sprout_fast.methods.linf import LinfAttack, cross_entropy_of, unit_images
from sprout_fast.methods.losses import CrossEntropy
from sprout_fast.models.mode import evaluation_mode
from sprout_fast.ops.generalized_cross_entropy import generalized_cross_entropy

# Keeps the most confusing class's share of the adversarial label above 0 (gamma in the paper).
_GAMMA = 0.01


class BilateralAdversarialTraining(Method, name="bilateral"):
    """Bilateral adversarial training (Wang & Zhang 2019): perturbs both image and label.

    x̃ is a targeted attack from a uniform point of the ball toward the most confusing class, the
    wrong class with the largest logit; ỹ = y, g = I. h gives the true class 1 - e, and each wrong
    class k a share of e in proportion to v_k - min v + gamma, where v_k = -log f_k is the loss's
    gradient with respect to the label. Table 1 writes h as (1 - alpha) y + alpha PGD_eps'(y); this
    is the original's closed form of it, with e such that the true class has ``label_margin`` times
    the largest wrong share. As in the authors' code, the network is in eval mode for class, label
    and attack, and the first two are computed on the clean image.

    Args:
        eps: radius of the l-inf ball, on images in [0, 1].
        step_size: length of the attack's steps, on images in [0, 1].
        attack_steps: number of attack steps; the paper uses 1 or 2.
        label_margin: ratio of the true class's label to the largest wrong one; the paper uses 9.
    """

    capturable = True

    def __init__(
        self,
        setting: MethodSetting,
        *,
        eps: float = 8 / 255,
        step_size: float = 8 / 255,
        attack_steps: int = 1,
        label_margin: float = 9.0,
    ) -> None:
        super().__init__(setting.mixer(), CrossEntropy())
        if not 1 <= label_margin < float("inf"):
            raise ValueError(f"label_margin: got {label_margin}, expected a finite number >= 1")
        self.attack = LinfAttack(eps, step_size, attack_steps, training_mode=False)
        self.label_margin = label_margin

    def training_step(self, optimize: Optimize, images: Tensor, labels: Tensor) -> None:
        images = unit_images(images)
        with torch.no_grad(), evaluation_mode(optimize.network):
            logits = optimize.network(images).float()
        own = _own_classes(labels, logits.shape[1])
        confusing = logits.masked_fill(own, -torch.inf).argmax(1)
        targeted = cross_entropy_of(confusing)
        adversarial = self.attack(optimize.network, images, lambda attacked: -targeted(attacked))
        label = adversarial_label(logits, labels, self.label_margin)
        inputs, target = self.mixer(adversarial, labels)
        optimize(inputs, target, lambda logits, _: generalized_cross_entropy(logits, label))


def adversarial_label(logits: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Perturb the labels along the loss's gradient -log f: float32 [B, K], whose rows sum to 1.

    ``margin`` is the ratio of the true class's probability to the largest wrong one's, >= 1.

    >>> adversarial_label(torch.zeros(1, 10), torch.tensor([0]), 9.0)[0, :2]
    tensor([0.5000, 0.0556])
    """
    own = _own_classes(labels, logits.shape[1])
    gradient = -logits.log_softmax(1)
    least = gradient.masked_fill(own, torch.inf).amin(1, keepdim=True)
    wrong = (gradient - least + _GAMMA).masked_fill(own, 0)
    wrong = wrong / wrong.sum(1, keepdim=True)
    moved = 1 / (1 + margin * wrong.amax(1, keepdim=True))  # 1 - moved = margin x moved x largest
    return torch.where(own, 1 - moved, moved * wrong)


def _own_classes(labels: Tensor, num_classes: int) -> Tensor:
    """Return a mask of the labels, bool [B, K]; unlike ``F.one_hot``, it reads nothing on a CPU."""
    return labels[:, None] == torch.arange(num_classes, device=labels.device)
