"""The rows of the table: the methods through the training step of a run, and the baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from sprout_fast.methods import Method, build_method
from training_benchmark.baselines import BASELINES, Unavailable
from training_benchmark.trainee import Trainee


@dataclass(frozen=True)
class Contestant:
    """A row. ``step`` trains on a batch: images uint8 [B,3,H,W], labels int64 [B]."""

    name: str
    step: Callable[[Tensor, Tensor], None]
    note: str = ""


def build_methods(trainee: Trainee, names: Sequence[str]) -> dict[str, Method]:
    """The methods with their own defaults, in training mode.

    Raises:
        UserError: an unknown name.
    """
    methods = {name: build_method(name, trainee.setting) for name in names}
    for method in methods.values():
        method.to(trainee.device).train()
    return methods


def build_contestants(
    trainee: Trainee, methods: dict[str, Method], baselines: Sequence[str]
) -> tuple[list[Contestant], dict[str, str]]:
    """All rows in the table's order; and of those that cannot be measured here, by row, why.

    Natural training's and SPROUT's come first, each with its baselines, since they are compared
    with each other: neighbours in a round differ least in what else the machine did.

    Args:
        methods: of `build_methods`.
        baselines: keys of `BASELINES`.
    """
    contestants, unavailable = [], {}
    for family in dict.fromkeys(["natural", "sprout", *methods]):
        if family in methods:
            step = partial(methods[family].training_step, trainee.optimize)
            contestants.append(Contestant(family, step, describe(methods[family])))
        for kind in (BASELINES[name] for name in baselines):
            if kind.family != family:
                continue
            try:
                baseline = kind(trainee)
            except Unavailable as error:
                unavailable[kind.row] = str(error)
            else:
                contestants.append(Contestant(kind.row, baseline, baseline.note))
    return contestants, unavailable


def describe(method: Method) -> str:
    """What makes a method's step longer than one of natural training.

    >>> from sprout_fast.methods import MethodSetting
    >>> setting = MethodSetting(num_classes=10, mean=(0.5,) * 3, std=(0.25,) * 3)
    >>> [describe(build_method(name, setting)) for name in ("natural", "pgd_at", "free_at")]
    ['', '7 attack steps', '8 optimizer steps on each batch']
    """
    counts = []
    if (attack := getattr(method, "attack", None)) is not None:
        counts.append((attack.steps, "attack step"))
    if method.passes > 1:
        counts.append((method.passes, "optimizer step"))
    notes = [f"{count} {what}{'s' if count > 1 else ''}" for count, what in counts]
    return ", ".join(notes) + (" on each batch" if method.passes > 1 else "")
