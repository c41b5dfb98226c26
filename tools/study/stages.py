"""Which networks the study trains, from which weights, with which options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ROWS = ("natural", "sprout_code", "sprout_paper", "sprout_mean", "ls", "ga_ls", "pgd_at")


@dataclass(frozen=True)
class Size:
    """What the study costs.

    Args:
        arch: network of all stages.
        natural_epochs: of the natural network that every other stage starts from.
        epochs: of every other stage but adversarial training.
        adversarial_epochs: of adversarial training, whose epochs cost eight.
        test_images: number of test images that PGD and transfer run on, spread over the classes.
        strong_images: number of those that AutoAttack runs on.
        audit_images: number of those that the audit runs on.
        attack_scale: factor on the attacks' steps, restarts and queries, in (0, 1].
        rows: stages by name, each after those that it needs.
    """

    arch: str
    natural_epochs: int
    epochs: int
    adversarial_epochs: int
    test_images: int
    strong_images: int
    audit_images: int
    attack_scale: float = 1.0
    rows: tuple[str, ...] = ROWS


#: By the smallest ``--scale`` that asks for it.
SIZES: dict[float, Size] = {
    1.0: Size("cifar_vgg16", 200, 200, 200, 10_000, 10_000, 1_000, rows=(*ROWS, "trades")),
    0.5: Size("cifar_vgg16", 30, 15, 10, 1_000, 1_000, 200),
    0.1: Size("cifar_resnet20", 60, 30, 20, 1_000, 1_000, 200),
    0.0: Size("cifar_resnet8", 1, 1, 1, 20, 20, 10, attack_scale=0.02),
}


def size_of(scale: float) -> Size:
    """Return the size that a scale in (0, 1] asks for.

    >>> size_of(0.5).arch, size_of(0.1).arch, size_of(0.001).arch
    ('cifar_vgg16', 'cifar_resnet20', 'cifar_resnet8')
    """
    return next(size for least, size in SIZES.items() if scale >= least)


@dataclass(frozen=True)
class Stage:
    """One training of the chain.

    Args:
        name: of its folder and its row.
        title: for a reader.
        epochs: passes over the training images.
        options: of the training tool, by name.
        recipe: whose options come first, or None.
        start: the stage whose last weights it starts from, or None for fresh weights.
        mass_of: the stage whose last expected true-class mass sets this one's label smoothing.
    """

    name: str
    title: str
    epochs: int
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: str | None = None
    start: str | None = "natural"
    mass_of: str | None = None


# The authors' code trains on images in [0,1] without mean and standard deviation, with SGD at 0.01
# in stages; here every stage that starts from the natural network does.
_COMMON = {"normalization": "none", "batch_size": 128, "amp": "bf16"}
_FROM_NATURAL = {"lr": 0.01, "schedule": "stages", "warmup_epochs": 0, "weight_decay": 5e-4}


def stages(size: Size) -> list[Stage]:
    """Return the stages in an order in which they can be run."""

    def tuned(name: str, title: str, epochs: int = size.epochs, **how: Any) -> Stage:
        options = _COMMON | _FROM_NATURAL | how.pop("options", {})
        return Stage(name, title, epochs, options, **how)

    found = [
        Stage(
            "natural", "natural", size.natural_epochs, {"method": "natural"} | _COMMON, start=None
        ),
        tuned("sprout_code", "SPROUT, authors' code", recipe="reference-code"),
        tuned("sprout_paper", "SPROUT, paper", recipe="paper"),
        tuned(
            "sprout_mean",
            "SPROUT, authors' code, mean labels",
            recipe="reference-code",
            options={"label_mode": "mean"},
        ),
        tuned("ls", "label smoothing at its mass", options={"method": "ls"}, mass_of="sprout_code"),
        tuned(
            "ga_ls",
            "noise and label smoothing at its mass",
            options={"method": "ga_ls"},
            mass_of="sprout_code",
        ),
        tuned(
            "pgd_at",
            "PGD adversarial training",
            size.adversarial_epochs,
            options={"method": "pgd_at"},
        ),
        tuned("trades", "TRADES", size.adversarial_epochs, options={"method": "trades"}),
    ]
    return [stage for stage in found if stage.name in size.rows]


def needed(planned: Sequence[Stage], rows: Sequence[str]) -> list[Stage]:
    """Return the stages of ``rows``, and those that they need, in an order in which they can run.

    >>> [stage.name for stage in needed(stages(size_of(0.1)), ["ls"])]
    ['natural', 'sprout_code', 'ls']
    """
    names = set(rows)
    for stage in reversed(planned):
        if stage.name in names:
            names |= {stage.start, stage.mass_of} - {None}
    return [stage for stage in planned if stage.name in names]


def smoothing_at(mass: float, num_classes: int) -> float:
    """Return the label smoothing alpha that leaves ``mass`` on the true class.

    (1 - alpha) + alpha / K = mass.

    >>> round(smoothing_at(0.55, 10), 6)
    0.5
    """
    return (1 - mass) * num_classes / (num_classes - 1)
