"""Natural training."""

from __future__ import annotations

from sprout_fast.methods.base import Method, MethodSetting
from sprout_fast.methods.losses import CrossEntropy


class Natural(Method, name="natural"):
    """Natural training: x̃ = x, ỹ = y, g = h = I.

    It uses the same mixer as the other methods, with noise and Mixup off.
    """

    def __init__(self, setting: MethodSetting) -> None:
        super().__init__(setting.mixer(), CrossEntropy())
