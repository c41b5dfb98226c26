"""Natural training: METHOD.md's Table 1, first row."""

from __future__ import annotations

from sprout_fast.methods.base import Method, MethodSetting
from sprout_fast.methods.losses import CrossEntropy


class Natural(Method, name="natural"):
    """Natural training: x̃ = x, ỹ = y, g = h = I, through the same mixer with all of it off."""

    def __init__(self, setting: MethodSetting) -> None:
        super().__init__(setting.mixer(), CrossEntropy())
