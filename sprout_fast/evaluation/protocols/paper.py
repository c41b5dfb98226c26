"""What the SPROUT paper measured, with its numbers of steps and its eps (METHOD.md)."""

from __future__ import annotations

from sprout_fast.evaluation.measurements import (
    AttackMeasurement,
    Clean,
    Diversity,
    Invariance,
    Landscape,
    Measurement,
)
from sprout_fast.evaluation.protocols.base import SMALL_IMAGE, Setting, register

EPS = 0.03
STEP_SHARE = 5  # the step size is eps / 5
STEPS = (10, 20, 50, 100, 200, 500)
RESTARTS = (1, 3, 5, 8, 10)
EPS_CURVE = (0.01, 0.02, 0.04, 0.05, 0.06, 0.08)
IMAGENET_EPS = (0.005, 0.01, 0.015, 0.02)


def pgd(setting: Setting, name: str, eps: float, steps: int, **options) -> AttackMeasurement:
    """PGD as the paper has it: l-inf, steps of eps/5, a random start."""
    options = {"steps": setting.scaled(steps, 3), "step_size": eps / STEP_SHARE} | options
    return AttackMeasurement(name=name, attack="pgd", norm="linf", eps=eps, options=options)


@register("paper")
def paper(setting: Setting) -> list[Measurement]:
    """Tables 2 to 5, 8, 9 and 11, Fig. 2, 6 and 7a; ImageNet's attack on larger images."""
    at = f" at {EPS:g}"
    measurements: list[Measurement] = [Clean()]
    measurements += [pgd(setting, f"PGD-{steps}{at}", EPS, steps) for steps in STEPS]
    measurements += [
        pgd(setting, f"{count}x PGD-20{at}", EPS, 20, restarts=setting.scaled(count))
        for count in RESTARTS[1:]
    ]
    measurements.append(pgd(setting, f"10x PGD-100{at}", EPS, 100, restarts=setting.scaled(10)))
    measurements += [pgd(setting, f"PGD-20 at {eps:g}", eps, 20) for eps in EPS_CURVE]
    measurements.append(pgd(setting, f"C&W-linf{at}", EPS, 100, loss="margin"))
    measurements.append(
        AttackMeasurement(
            name="C&W-l2 at 0.05",
            attack="cw_l2",
            norm="l2",
            eps=0.05,
            options={
                "binary_searches": setting.scaled(10, 2),
                "steps": setting.scaled(1000, 10),
            },
        )
    )
    measurements.append(
        AttackMeasurement(
            name=f"transfer{at}",
            attack="transfer",
            eps=EPS,
            options={
                "attack": "pgd",
                "steps": setting.scaled(100, 3),
                "step_size": EPS / STEP_SHARE,
            },
        )
    )
    if setting.image_size > SMALL_IMAGE:
        measurements += [
            pgd(setting, f"random-target PGD-20 at {eps:g}", eps, 20, target="random")
            for eps in IMAGENET_EPS
        ]
    measurements += [
        Invariance("rotation 10°", "rotation", 10),
        Invariance("brightness x 1.5", "brightness", 1.5),
        Invariance("contrast x 2", "contrast", 2),
        Invariance("grey", "grey", 1),
        Landscape(),
        Diversity(),
    ]
    return measurements
