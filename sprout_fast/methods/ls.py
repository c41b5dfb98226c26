"""Label smoothing."""

from __future__ import annotations

from sprout_fast.methods.base import Method, MethodSetting
from sprout_fast.methods.losses import CrossEntropy


class LabelSmoothing(Method, name="ls"):
    """Label smoothing (Szegedy et al. 2016): x̃ = x, ỹ = y, g = I, h(y) = (1 - alpha) y + alpha u.

    Args:
        alpha: weight of the uniform label u = 1/K, in [0, 1].
    """

    def __init__(self, setting: MethodSetting, *, alpha: float = 0.1) -> None:
        super().__init__(setting.mixer(), CrossEntropy(alpha))
