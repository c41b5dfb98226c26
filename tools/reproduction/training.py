"""A training of a chain, known by all that its weights depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from reproduction.datasets import CIFAR, DataSet
from sprout_fast.methods import MethodSetting, build_method
from sprout_fast.training.config import CifarConfig, TrainConfig


@dataclass(frozen=True)
class Training:
    """One run of the trainer. Tables that need the same one share it.

    Args:
        dataset: what it trains on.
        options: (name, value) pairs of the run's options, sorted by name.
        limit: it trains on this many images, which are a folder of their own; None is all.
        start: the run whose last weights it begins from; None is fresh weights.
    """

    dataset: DataSet
    options: tuple[tuple[str, Any], ...]
    limit: int | None = None
    start: Training | None = None

    def __getitem__(self, option: str) -> Any:
        return dict(self.options)[option]

    @cached_property
    def key(self) -> str:
        """A hash of all of it."""
        text = json.dumps(
            [self.dataset.name, self.options, self.limit, self.start and self.start.key],
            sort_keys=True,
        )
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """Of the run's folder."""
        return f"{self['arch']}-{self['method']}-{self.key}"

    @property
    def label(self) -> str:
        """For a person."""
        start = "" if self.start is None else f" from {self.start['method']}"
        options = dict(self.options)
        modules = options.get("modules", "ga,mixup,dirichlet")
        parts = "" if modules == "ga,mixup,dirichlet" else f" ({modules})"
        usual = {"mixup_alpha": 0.2, "alpha": 0.01}
        changed = "".join(
            f", {name} {options[name]:g}"
            for name, value in usual.items()
            if self["method"] == "sprout" and options.get(name, value) != value
        )
        arch = self["arch"].removeprefix("cifar_")
        return f"{arch} by {self['method']}{parts}{changed}{start}"

    def config(
        self, data: Path, out: Path, weights: Path | None, device: str | None
    ) -> TrainConfig:
        """As the trainer takes it; ``data`` is the folder to read, maybe a part of the data set."""
        values = dict(self.options) | {
            "data": data,
            "out": out,
            "weights": weights,
            "device": device,
            "final_attack_images": 0,
        }
        return (CifarConfig if self.dataset is CIFAR else TrainConfig)(**values)

    @cached_property
    def passes(self) -> int:
        """Forward and backward passes for each image and epoch."""
        setting = MethodSetting(num_classes=10, mean=(0.5,) * 3, std=(0.25,) * 3)
        options = {
            name: value for name, value in self.options if name in ("weight_steps", "attack_steps")
        }
        method = build_method(self["method"], setting, **options)
        attack = getattr(method, "attack", None)
        return method.passes * (1 + (attack.steps if attack is not None else 0))


def with_starts(trainings: list[Training]) -> list[Training]:
    """The trainings and those that they begin from, each once, in an order that can be run."""

    def chain(training: Training) -> Iterator[Training]:
        if training.start is not None:
            yield from chain(training.start)
        yield training

    return list(dict.fromkeys(one for training in trainings for one in chain(training)))
