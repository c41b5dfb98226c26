"""Rows of the table: the package's methods, through the trainer's own step, and the baselines."""

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
    """One row; ``step`` trains on a batch of uint8 images [B,3,H,W] and int64 labels [B]."""

    name: str
    step: Callable[[Tensor, Tensor], None]
    note: str = ""


def build_methods(trainee: Trainee, names: Sequence[str]) -> dict[str, Method]:
    """Build methods with their default options, in training mode.

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
    """Return the rows in order of display, and why others cannot be measured, by row.

    Natural training and SPROUT come first, each followed by its baselines: they are compared with
    each other, and neighbors in a round are least affected by changes in machine load.

    Args:
        trainee: the network to train.
        methods: result of ``build_methods``.
        baselines: keys of ``BASELINES``.
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
    """Return a note on what makes the method's step longer than a natural one.

    >>> from sprout_fast.methods import MethodSetting
    >>> setting = MethodSetting(num_classes=10, mean=(0.5,) * 3, std=(0.25,) * 3)
    >>> [describe(build_method(name, setting)) for name in ("natural", "pgd_at", "free_at")]
    ['', '7 attack steps', '8 optimizer steps per batch']
    """
    counts = []
    if (attack := getattr(method, "attack", None)) is not None:
        counts.append((attack.steps, "attack step"))
    if method.passes > 1:
        counts.append((method.passes, "optimizer step"))
    notes = [f"{count} {what}{'s' if count > 1 else ''}" for count, what in counts]
    return ", ".join(notes) + (" per batch" if method.passes > 1 else "")
