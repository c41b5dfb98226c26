"""Rows of the table: the package's methods, through the trainer's own step, and the baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from sprout_fast.methods import Method, build_method
from sprout_fast.training.graph import CapturedStep
from training_benchmark.baselines import BASELINES, Unavailable
from training_benchmark.trainee import Trainee


@dataclass(frozen=True)
class Contestant:
    """One row.

    Args:
        name: of the row.
        step: trains on a batch of uint8 images [B,3,H,W] and int64 labels [B].
        note: remark in the table.
        cost: first guess of a step's time relative to a natural one's.
        warmup: steps before the first one that is timed.
    """

    name: str
    step: Callable[[Tensor, Tensor], None]
    note: str = ""
    cost: float = 1.0
    warmup: int = 1


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
            method = methods[family]
            step = partial(method.training_step, trainee.optimize)
            contestants.append(Contestant(family, step, describe(method), guessed_cost(method)))
            if family in ("natural", "sprout") and trainee.capturable:
                step = CapturedStep(method, trainee.optimize, trainee.world)
                note = "replays of a CUDA graph (--cuda-graph of training)"
                contestants.append(Contestant(f"{family}, graph", step, note, 1.0, step.warmup + 2))
        for kind in (BASELINES[name] for name in baselines):
            if kind.family != family:
                continue
            try:
                baseline = kind(trainee)
            except Unavailable as error:
                unavailable[kind.row] = str(error)
            else:
                contestants.append(Contestant(kind.row, baseline, baseline.note, kind.cost))
    return contestants, unavailable


def guessed_cost(method: Method) -> float:
    """Return about how many natural steps a step costs: an attack step spares weight gradients.

    >>> from sprout_fast.methods import MethodSetting
    >>> setting = MethodSetting(num_classes=10, mean=(0.5,) * 3, std=(0.25,) * 3)
    >>> [round(guessed_cost(build_method(name, setting)), 1) for name in ("natural", "pgd_at")]
    [1.0, 6.6]
    """
    attack = getattr(method, "attack", None)
    return method.passes + (0.0 if attack is None else 0.8 * attack.steps)


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
