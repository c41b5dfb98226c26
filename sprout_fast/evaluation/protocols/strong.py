"""AutoAttack's four attacks with its budgets, each on what the ones before left standing."""

from __future__ import annotations

from sprout_fast.evaluation.measurements import AttackMeasurement, Clean, Measurement
from sprout_fast.evaluation.protocols.base import Setting, register

NAMES = ("APGD-CE", "APGD-T", "FAB-T", "Square")


@register("strong")
def strong(setting: Setting) -> list[Measurement]:
    """Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", ICML 2020: its standard version."""
    budgets = {
        "APGD-CE": ("apgd_ce", {"steps": setting.scaled(100, 5)}),
        "APGD-T": ("apgd_t", {"steps": setting.scaled(100, 5), "target_classes": 9}),
        "FAB-T": ("fab_t", {"steps": setting.scaled(100, 5), "target_classes": 9}),
        "Square": ("square", {"queries": setting.scaled(5000, 50)}),
    }
    return [
        Clean(),
        *(
            AttackMeasurement(
                name=name,
                attack=budgets[name][0],
                norm=setting.norm,
                eps=setting.eps,
                options=budgets[name][1],
                cascade=NAMES[:place],
            )
            for place, name in enumerate(NAMES)
        ),
    ]
