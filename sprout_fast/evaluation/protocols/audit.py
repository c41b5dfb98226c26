"""What the audit's checks look at (`sprout_fast.evaluation.audit`)."""

from __future__ import annotations

from sprout_fast.evaluation.measurements import AttackMeasurement, Clean, Gradients, Measurement
from sprout_fast.evaluation.protocols.base import Setting, register

# Times the eps of the verdict.
EPS_FACTORS = (0.25, 0.5, 2.0, 4.0)


@register("audit")
def audit(setting: Setting) -> list[Measurement]:
    """Signs of gradient masking (Athalye et al. 2018; Carlini et al. 2019, section 5; Croce & Hein
    2020)."""

    def by(name: str, attack: str, factor: float = 1.0, /, **options) -> AttackMeasurement:
        return AttackMeasurement(
            name=f"audit: {name}",
            attack=attack,
            norm=setting.norm,
            eps=setting.eps * factor,
            options=options,
        )

    def pgd(name: str, steps: int, factor: float = 1.0, /, **options) -> AttackMeasurement:
        # Fewer than 20 would make a weak attack of it, and its weakness look like masking.
        scaled = setting.scaled(steps, 20)
        options = {"steps": scaled, "step_size": setting.eps * factor / 4} | options
        return by(name, "pgd", factor, **options)

    elements = 3 * setting.image_size**2
    largest = 0.5 if setting.norm == "linf" else 0.5 * elements**0.5
    return [
        Clean(),
        Gradients(),
        by("noise", "noise", draws=setting.scaled(100, 5)),
        by("one step", "pgd", steps=1, step_size=setting.eps, random_start=False),
        pgd("PGD-20", 20),
        pgd("PGD-200", 200),
        pgd("10x PGD-20", 20, restarts=setting.scaled(10, 2)),
        pgd("PGD-20 margin", 20, loss="margin"),
        pgd("PGD-20 rescaled", 20, loss="rescaled_ce"),
        *(pgd(f"PGD-20 at {factor:g} eps", 20, factor) for factor in EPS_FACTORS),
        pgd("PGD-200 at the largest eps", 200, largest / setting.eps if setting.eps > 0 else 0),
        by("APGD-CE", "apgd_ce", steps=setting.scaled(100, 20)),
        by("APGD-T", "apgd_t", steps=setting.scaled(100, 20), target_classes=9),
        by("Square", "square", queries=setting.scaled(5000, 50)),
        by(
            "transfer",
            "transfer",
            attack="pgd",
            steps=setting.scaled(100, 20),
            step_size=setting.eps / 4,
        ),
    ]
