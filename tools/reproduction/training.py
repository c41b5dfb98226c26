"""One training, identified by everything that its weights depend on."""

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
    """One run of the trainer, shared by all tables that need it.

    Args:
        dataset: data set to train on.
        options: (name, value) pairs of the run's options, sorted by name.
        limit: number of training images, in a folder of their own; None for all.
        start: training whose final weights are the initial weights; None for random weights.
    """

    dataset: DataSet
    options: tuple[tuple[str, Any], ...]
    limit: int | None = None
    start: Training | None = None

    def __getitem__(self, option: str) -> Any:
        return dict(self.options)[option]

    @cached_property
    def key(self) -> str:
        """Hash of all fields."""
        text = json.dumps(
            [self.dataset.name, self.options, self.limit, self.start and self.start.key],
            sort_keys=True,
        )
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return f"{self['arch']}-{self['method']}-{self.key}"

    @property
    def label(self) -> str:
        """Display name."""
        start = "" if self.start is None else f", initialized from {self.start['method']}"
        options = dict(self.options)
        modules = options.get("modules", "ga,mixup,dirichlet")
        parts = "" if modules == "ga,mixup,dirichlet" else f" ({modules})"
        usual = {"mixup_alpha": 0.2, "alpha": 0.01}
        changed = "".join(
            f", {name} {options[name]:g}"
            for name, value in usual.items()
            if self["method"] == "sprout" and options.get(name, value) != value
        )
        return f"{self['arch']}, {self['method']}{parts}{changed}{start}"

    def config(
        self, data: Path, out: Path, weights: Path | None, device: str | None
    ) -> TrainConfig:
        """Return the trainer's configuration.

        Args:
            data: folder to read, which may be a subset of the data set.
            out: output folder.
            weights: checkpoint with the initial weights.
            device: device to train on.
        """
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
        """Forward and backward passes per image and epoch."""
        setting = MethodSetting(num_classes=10, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
        options = {
            name: value for name, value in self.options if name in ("weight_steps", "attack_steps")
        }
        method = build_method(self["method"], setting, **options)
        attack = getattr(method, "attack", None)
        return method.passes * (1 + (attack.steps if attack is not None else 0))


def with_starts(trainings: list[Training]) -> list[Training]:
    """Return the trainings and those that they start from, each once, in an executable order."""

    def chain(training: Training) -> Iterator[Training]:
        if training.start is not None:
            yield from chain(training.start)
        yield training

    return list(dict.fromkeys(one for training in trainings for one in chain(training)))
