"""Evaluation protocols: which measurements answer a question. A new one is a function here.

protocol_of("strong")(Setting(norm="linf", eps=8 / 255)) -> measurements in order
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from sprout_fast.attacks import autoattack as package
from sprout_fast.errors import UserError
from sprout_fast.evaluation.measurements import (
    AttackMeasurement,
    Clean,
    Diversity,
    Gradients,
    Invariance,
    Landscape,
    Measurement,
)

SMALL_IMAGE = 64  # pixels a side, up to which images count as CIFAR's kind, above as ImageNet's


@dataclass(frozen=True)
class Setting:
    """For what a protocol is made.

    Args:
        norm, eps: the ball of the verdict; the paper's protocol has its own eps where norm is
            "linf".
        num_classes: K.
        image_size: the longer side of the images in pixels.
        scale: multiplies every attack's steps, restarts and queries, in (0,1]; 1 is the budget
            that the protocol's source has.
    """

    norm: str = "linf"
    eps: float = 8 / 255
    num_classes: int = 10
    image_size: int = 32
    scale: float = 1.0

    def scaled(self, count: int, least: int = 1) -> int:
        """``count`` times the scale, at least ``least`` or count itself where that is less."""
        return max(round(count * self.scale), min(least, count))


Protocol = Callable[[Setting], list[Measurement]]
PROTOCOLS: dict[str, Protocol] = {}


def register(name: str) -> Callable[[Protocol], Protocol]:
    """Enter a function into ``PROTOCOLS``."""

    def enter(function: Protocol) -> Protocol:
        PROTOCOLS[name] = function
        return function

    return enter


def protocol_of(name: str) -> Protocol:
    """``PROTOCOLS[name]``, or a UserError with the nearest name."""
    if name not in PROTOCOLS:
        close = difflib.get_close_matches(name, PROTOCOLS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"protocol: got {name!r}, takes one of {', '.join(PROTOCOLS)}{hint}")
    return PROTOCOLS[name]


STRONG = ("APGD-CE", "APGD-T", "FAB-T", "Square")


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
                cascade=STRONG[:place],
            )
            for place, name in enumerate(STRONG)
        ),
    ]


PAPER_EPS = 0.03
PAPER_STEP_SHARE = 5  # the step size is eps / 5
PAPER_STEPS = (10, 20, 50, 100, 200, 500)
PAPER_RESTARTS = (1, 3, 5, 8, 10)
PAPER_EPS_CURVE = (0.01, 0.02, 0.04, 0.05, 0.06, 0.08)
IMAGENET_EPS = (0.005, 0.01, 0.015, 0.02)


def paper_pgd(setting: Setting, name: str, eps: float, steps: int, **options) -> AttackMeasurement:
    """PGD as the paper has it: l-inf, steps of eps/5, a random start."""
    options = {"steps": setting.scaled(steps, 3), "step_size": eps / PAPER_STEP_SHARE} | options
    return AttackMeasurement(name=name, attack="pgd", norm="linf", eps=eps, options=options)


@register("paper")
def paper(setting: Setting) -> list[Measurement]:
    """Tables 2 to 5, 8, 9 and 11, Fig. 2, 6 and 7a; ImageNet's attack on larger images."""
    at = f" at {PAPER_EPS:g}"
    measurements: list[Measurement] = [Clean()]
    measurements += [
        paper_pgd(setting, f"PGD-{steps}{at}", PAPER_EPS, steps) for steps in PAPER_STEPS
    ]
    measurements += [
        paper_pgd(setting, f"{count}x PGD-20{at}", PAPER_EPS, 20, restarts=setting.scaled(count))
        for count in PAPER_RESTARTS[1:]
    ]
    measurements.append(
        paper_pgd(setting, f"10x PGD-100{at}", PAPER_EPS, 100, restarts=setting.scaled(10))
    )
    measurements += [paper_pgd(setting, f"PGD-20 at {eps:g}", eps, 20) for eps in PAPER_EPS_CURVE]
    measurements.append(paper_pgd(setting, f"C&W-linf{at}", PAPER_EPS, 100, loss="margin"))
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
            eps=PAPER_EPS,
            options={
                "attack": "pgd",
                "steps": setting.scaled(100, 3),
                "step_size": PAPER_EPS / PAPER_STEP_SHARE,
            },
        )
    )
    if setting.image_size > SMALL_IMAGE:
        measurements += [
            paper_pgd(setting, f"random-target PGD-20 at {eps:g}", eps, 20, target="random")
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


@register("all")
def everything(setting: Setting) -> list[Measurement]:
    found = {}
    for name in ("strong", "audit", "paper"):
        for measurement in protocol_of(name)(setting):
            found.setdefault(measurement.name, measurement)
    return list(found.values())
