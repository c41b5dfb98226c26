"""Gaussian augmentation."""

from __future__ import annotations

from sprout_fast.methods.base import Method, MethodSetting
from sprout_fast.methods.losses import CrossEntropy


class GaussianAugmentation(Method, name="ga"):
    """Gaussian augmentation: x̃ ~ N(x, sigma²), ỹ = y, g = h = I.

    Args:
        sigma: standard deviation of the Gaussian noise, on images in [0, 1].
    """

    def __init__(self, setting: MethodSetting, *, sigma: float = 0.1) -> None:
        super().__init__(setting.mixer(sigma), CrossEntropy())
