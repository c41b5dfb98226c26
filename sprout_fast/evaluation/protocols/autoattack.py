"""The official AutoAttack package, where it is installed."""

from __future__ import annotations

from sprout_fast.attacks import autoattack as package
from sprout_fast.errors import UserError
from sprout_fast.evaluation.measurements import AttackMeasurement, Clean, Measurement
from sprout_fast.evaluation.protocols.base import Setting, register


@register("autoattack")
def autoattack(setting: Setting) -> list[Measurement]:
    """Croce & Hein's standard version, by their own code and at its own budget.

    Raises:
        UserError: the package is not installed, or a scale other than 1.
    """
    if not package.is_installed():
        raise UserError(f"protocol autoattack: {package.MISSING}")
    if setting.scale != 1:
        raise UserError(f"scale: got {setting.scale}, the protocol autoattack takes 1 alone")
    return [
        Clean(),
        AttackMeasurement("AutoAttack", "autoattack", setting.norm, setting.eps),
    ]
