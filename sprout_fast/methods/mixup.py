"""Mixup."""

from __future__ import annotations

from sprout_fast.methods.base import Method, MethodSetting
from sprout_fast.methods.losses import MixedCrossEntropy


class Mixup(Method, name="mixup"):
    """Mixup (Zhang et al. 2018): x̃ = λ x_i + (1-λ) x_j, ỹ = λ y_i + (1-λ) y_j, g = I,
    h(y) = (1 - alpha) y + alpha u.

    Args:
        mixup_alpha: parameter of λ ~ Beta(mixup_alpha, mixup_alpha); 0 turns Mixup off.
        alpha: weight of the uniform label u = 1/K, in [0, 1].
    """

    def __init__(
        self, setting: MethodSetting, *, mixup_alpha: float = 0.2, alpha: float = 0.0
    ) -> None:
        loss = MixedCrossEntropy(setting.num_classes, alpha, setting.device)
        super().__init__(setting.mixer(mixup_alpha=mixup_alpha), loss)
