"""Evaluation protocols: lists of measurements that answer one question. A new one is a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
    Stability,
)
from sprout_fast.evaluation.names import AutoAttackVersion, NormName
from sprout_fast.registry import Registry

SMALL_IMAGE = 64  # pixels per side: up to here images are treated like CIFAR's, else ImageNet's


@dataclass(frozen=True)
class Setting:
    """What a protocol is instantiated for.

    Args:
        norm: norm of the ball in which robust accuracy is reported.
        eps: radius of that ball. The paper's protocol uses its own eps.
        num_classes: K.
        image_size: longer side of the images in pixels.
        scale: factor in (0,1] on every attack's steps, restarts and queries; 1 is the budget of the
            protocol's source.
        autoattack_version: version of the official package that the protocol autoattack runs.
    """

    norm: NormName = "linf"
    eps: float = 8 / 255
    num_classes: int = 10
    image_size: int = 32
    scale: float = 1.0
    autoattack_version: AutoAttackVersion = "standard"

    def scaled(self, count: int, least: int = 1) -> int:
        """Return ``count`` times the scale, but at least ``min(least, count)``.

        >>> tenth = Setting(scale=0.1)
        >>> tenth.scaled(100), tenth.scaled(20, least=5), tenth.scaled(2), tenth.scaled(1, least=5)
        (10, 5, 1, 1)
        """
        return max(round(count * self.scale), min(least, count))


def examined(setting: Setting) -> list[Measurement]:
    """Return what the audit needs to know of a model besides attacks."""
    ball = {"norm": setting.norm, "eps": setting.eps}
    return [Clean(), Gradients(**ball), Stability(**ball)]


#: Protocols by name: functions that return measurements in order, the clean accuracy first.
PROTOCOLS: Registry[Callable[[Setting], list[Measurement]]] = Registry("protocol")


@PROTOCOLS.register("strong")
def strong(setting: Setting) -> list[Measurement]:
    """AutoAttack's standard version (Croce & Hein, ICML 2020), as a cascade.

    Each attack runs on samples that are still correctly classified. In the l1 ball APGD-CE has five
    starts and APGD-T five targets (Croce & Hein, ICML 2021). A look at the model itself, on few
    images, says whether the result can be trusted.
    """
    steps, nine = {"steps": setting.scaled(100, 5)}, {"target_classes": 9}
    starts, targets = {}, nine
    if setting.norm == "l1":
        starts, targets = {"restarts": setting.scaled(5)}, {"target_classes": 5}
    return cascade(
        setting,
        {
            "APGD-CE": ("apgd_ce", steps | starts),
            "APGD-T": ("apgd_t", steps | targets),
            "FAB-T": ("fab_t", steps | nine),
            "Square": ("square", {"queries": setting.scaled(5000, 50)}),
        },
    )


@PROTOCOLS.register("plus")
def plus(setting: Setting) -> list[Measurement]:
    """AutoAttack's version plus: six attacks, the untargeted ones with five starts each."""
    steps, nine = {"steps": setting.scaled(100, 5)}, {"target_classes": 9}
    five = {"restarts": setting.scaled(5)}
    return cascade(
        setting,
        {
            "APGD-CE": ("apgd_ce", steps | five),
            "APGD-DLR": ("apgd_ce", steps | five | {"loss": "dlr"}),
            "FAB": ("fab", steps | five),
            "Square": ("square", {"queries": setting.scaled(5000, 50)}),
            "APGD-T": ("apgd_t", steps | nine),
            "FAB-T": ("fab_t", steps | nine),
        },
    )


def cascade(setting: Setting, attacks: dict[str, tuple[str, dict[str, Any]]]) -> list[Measurement]:
    """Return attacks, each on samples still correctly classified after those before it.

    Args:
        attacks: attack and options by name.
    """
    measurements = examined(setting)
    for place, (name, (attack, options)) in enumerate(attacks.items()):
        earlier = tuple(attacks)[:place]
        measurements.append(
            AttackMeasurement(name, attack, setting.norm, setting.eps, options, earlier)
        )
    return measurements


PAPER_EPS = 0.03
PAPER_STEPS = (10, 20, 50, 100, 200, 500)
PAPER_RESTARTS = (1, 3, 5, 8, 10)
PAPER_EPS_CURVE = (0.01, 0.02, 0.04, 0.05, 0.06, 0.08)
IMAGENET_EPS = (0.005, 0.01, 0.015, 0.02)


def paper_pgd(setting: Setting, name: str, eps: float, steps: int, **options) -> AttackMeasurement:
    """Return PGD as in the paper: l-inf, step size eps/5, random start."""
    options = {"steps": setting.scaled(steps, 3), "step_size": eps / 5} | options
    return AttackMeasurement(name, "pgd", "linf", eps, options)


@PROTOCOLS.register("paper")
def paper(setting: Setting) -> list[Measurement]:
    """The paper's Tables 2 to 5, 8, 9 and 11 and Fig. 2, 6 and 7a.

    Images larger than 64 pixels also get its attack on ImageNet.
    """

    def pgd(name: str, steps: int, eps: float = PAPER_EPS, /, **options) -> AttackMeasurement:
        return paper_pgd(setting, f"{name} at {eps:g}", eps, steps, **options)

    searches = {"binary_searches": setting.scaled(10, 2), "steps": setting.scaled(1000, 10)}
    transferred = {"attack": "pgd", **pgd("PGD-100", 100).options}
    measurements: list[Measurement] = [
        Clean(),
        *(pgd(f"PGD-{steps}", steps) for steps in PAPER_STEPS),
        *(pgd(f"{n}x PGD-20", 20, restarts=setting.scaled(n)) for n in PAPER_RESTARTS[1:]),
        pgd("10x PGD-100", 100, restarts=setting.scaled(10)),
        *(pgd("PGD-20", 20, eps) for eps in PAPER_EPS_CURVE),
        pgd("C&W-linf", 100, loss="margin"),
        AttackMeasurement("C&W-l2 at 0.05", "cw_l2", "l2", 0.05, searches),
        AttackMeasurement(f"transfer at {PAPER_EPS:g}", "transfer", "linf", PAPER_EPS, transferred),
    ]
    if setting.image_size > SMALL_IMAGE:
        name = "random-target PGD-20"
        measurements += [pgd(name, 20, eps, target="random") for eps in IMAGENET_EPS]
    return [
        *measurements,
        Invariance("rotation 10°", "rotation", 10),
        Invariance("brightness x 1.5", "brightness", 1.5),
        Invariance("contrast x 2", "contrast", 2),
        Invariance("gray", "gray", 1),
        Landscape(),
        Diversity(),
    ]


# Multiples of the evaluation's eps.
EPS_FACTORS = (0.25, 0.5, 2.0, 4.0)


@PROTOCOLS.register("audit")
def audit(setting: Setting) -> list[Measurement]:
    """Attacks that reveal gradient masking.

    Sources: Athalye et al. 2018; Carlini et al. 2019, section 5; Croce & Hein 2020.
    """

    def attacked(name: str, attack: str, factor: float = 1.0, /, **options) -> AttackMeasurement:
        eps = setting.eps * factor
        return AttackMeasurement(f"audit: {name}", attack, setting.norm, eps, options)

    def pgd(name: str, steps: int, factor: float = 1.0, /, **options) -> AttackMeasurement:
        # With fewer than 20 steps the attack is weak, which would look like gradient masking.
        scaled = setting.scaled(steps, 20)
        options = {"steps": scaled, "step_size": setting.eps * factor / 4} | options
        return attacked(name, "pgd", factor, **options)

    elements = 3 * setting.image_size**2
    largest = {"linf": 0.5, "l2": 0.5 * elements**0.5, "l1": 0.5 * elements}[setting.norm]
    auto_steps = setting.scaled(100, 20)
    transferred = {"attack": "pgd", "steps": auto_steps, "step_size": setting.eps / 4}
    return [
        *examined(setting),
        attacked("noise", "noise", draws=setting.scaled(100, 5)),
        attacked("one step", "pgd", steps=1, step_size=setting.eps, random_start=False),
        pgd("PGD-20", 20),
        pgd("PGD-200", 200),
        pgd("10x PGD-20", 20, restarts=setting.scaled(10, 2)),
        pgd("PGD-20 margin", 20, loss="margin"),
        pgd("PGD-20 rescaled", 20, loss="rescaled_ce"),
        *(pgd(f"PGD-20 at {factor:g} eps", 20, factor) for factor in EPS_FACTORS),
        pgd("PGD-200 at the largest eps", 200, largest / setting.eps if setting.eps > 0 else 0),
        attacked("APGD-CE", "apgd_ce", steps=auto_steps),
        attacked("APGD-T", "apgd_t", steps=auto_steps, target_classes=9),
        attacked("Square", "square", queries=setting.scaled(5000, 50)),
        attacked("transfer", "transfer", **transferred),
    ]


@PROTOCOLS.register("rand")
def rand(setting: Setting) -> list[Measurement]:
    """AutoAttack's version for models that draw random numbers, as a cascade.

    Auto-PGD on the cross entropy and on the DLR loss, with gradients averaged over 20 passes.
    """
    options = {"steps": setting.scaled(100, 5), "eot_iter": setting.scaled(20, 5)}
    return cascade(
        setting,
        {
            "APGD-CE, EOT": ("apgd_ce", options),
            "APGD-DLR, EOT": ("apgd_ce", options | {"loss": "dlr"}),
        },
    )


@PROTOCOLS.register("corruptions")
def corruptions(setting: Setting) -> list[Measurement]:
    """The clean accuracy; :func:`sprout_fast.evaluate` adds each corruption and severity."""
    return [Clean()]


@PROTOCOLS.register("autoattack")
def autoattack(setting: Setting) -> list[Measurement]:
    """AutoAttack's official package, with its own budget, in the version that the setting names.

    Raises:
        UserError: the package is not installed, or the scale is not 1.
    """
    if not package.is_installed():
        raise UserError(f"autoattack: {package.MISSING}", option="protocol")
    if setting.scale != 1:
        raise UserError(f"{setting.scale}: protocol autoattack supports only 1", option="scale")
    options = {"version": setting.autoattack_version}
    version = setting.autoattack_version
    name = "AutoAttack" if version == "standard" else f"AutoAttack {version}"
    attack = AttackMeasurement(name, "autoattack", setting.norm, setting.eps, options)
    return [*examined(setting), attack]


@PROTOCOLS.register("all")
def everything(setting: Setting) -> list[Measurement]:
    """The protocols strong, audit and paper together."""
    found: dict[str, Measurement] = {}
    for protocol in (strong, audit, paper):
        for measurement in protocol(setting):
            found.setdefault(measurement.name, measurement)
    return list(found.values())
