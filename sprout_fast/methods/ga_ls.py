"""Gaussian augmentation with label smoothing."""

from __future__ import annotations

from sprout_fast.methods.base import Method, MethodSetting
from sprout_fast.methods.losses import CrossEntropy


class GaussianLabelSmoothing(Method, name="ga_ls"):
    """Gaussian augmentation and label smoothing.

    x̃ ~ N(x, sigma²), ỹ = y, g = I, h(y) = (1 - alpha) y + alpha u.

    Args:
        sigma: standard deviation of the Gaussian noise, on images in [0, 1].
        alpha: weight of the uniform label u = 1/K, in [0, 1].
    """

    def __init__(self, setting: MethodSetting, *, sigma: float = 0.1, alpha: float = 0.1) -> None:
        super().__init__(setting.mixer(sigma), CrossEntropy(alpha))
