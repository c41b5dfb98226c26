"""A tiny network, data and settings for tests of the training loop."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from sprout_fast import models
from sprout_fast.data import Loaders
from sprout_fast.distributed import World
from sprout_fast.methods import Method, MethodSetting
from sprout_fast.training import build
from sprout_fast.training.config import TrainConfig
from sprout_fast.training.loop import Trainer
from sprout_fast.training.progress import Display
from sprout_fast.training.run import resolve

CLASSES, SIZE, BATCH = 5, 8, 6
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
WORLD = World(0, 1, torch.device("cpu"))


class FakeLoader:
    """Batches that depend on seed and epoch alone, with the interface of the loaders.

    Args:
        batches: number of batches.
        seed: of the images.
        train: whether each epoch has images of its own.
        rows: rows of each batch that this process gets; by default all.
    """

    def __init__(
        self, batches: int = 4, seed: int = 0, train: bool = True, rows: slice = slice(None)
    ) -> None:
        self.batch_size, self.num_images = BATCH, BATCH * batches
        self._batches, self._seed, self._epoch = batches, seed, 0
        self._train, self._rows = train, rows
        self.read, self.images_done = 0, 0

    def __len__(self) -> int:
        return self._batches

    def batch(self, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1000 * self._seed + 100 * epoch + index)
        nhwc = torch.randint(256, (BATCH, SIZE, SIZE, 3), dtype=torch.uint8, generator=generator)
        labels = torch.randint(CLASSES, (BATCH,), generator=generator)
        nhwc[..., 0] = labels[:, None, None] * 50  # something to learn
        return nhwc.permute(0, 3, 1, 2)[self._rows], labels[self._rows]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index in range(self.images_done // BATCH, self._batches):
            self.read += 1
            yield self.batch(self._epoch, index)
        self._epoch, self.images_done = self._epoch + self._train, 0

    def batches_left(self) -> int:
        return self._batches - self.images_done // BATCH

    def state_dict(self, batches: int = 0) -> dict[str, Any]:
        return {"epoch": self._epoch, "images_done": self.images_done + batches * BATCH}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._epoch, self.images_done = state["epoch"], state["images_done"]


def tiny_network(num_classes: int = CLASSES) -> nn.Module:
    """Return a small network with batch norm and dropout, always with the same weights."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(8, num_classes),
    )


tiny_network.mean, tiny_network.std = MEAN, STD


def method_setting(**changes: Any) -> MethodSetting:
    """Return the setting of a method for these images."""
    return MethodSetting(**{"num_classes": CLASSES, "mean": MEAN, "std": STD, "seed": 11} | changes)


def assert_same(one: Any, two: Any, where: str = "") -> None:
    """Assert that two nested structures of tensors and plain values are equal bit for bit."""
    if isinstance(one, Tensor):
        assert torch.equal(one, two), where
    elif isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            assert_same(one[key], two[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two), where
        for index, (a, b) in enumerate(zip(one, two, strict=True)):
            assert_same(a, b, f"{where}/{index}")
    else:
        assert one == two, where


def make_trainer(
    out: Path | None = None,
    *,
    method: str | Method = "sprout",
    model: nn.Module | None = None,
    batches: int = 4,
    world: World = WORLD,
    **options: Any,
) -> Trainer:
    """Return the trainer of a run with these ``options`` of ``TrainConfig``, on a ``FakeLoader``.

    The run's own functions build it, with ``model``, by default :func:`tiny_network`. Of several
    processes, each gets an equal share of every batch.
    """
    share = BATCH // world.size
    rows = slice(world.rank * share, (world.rank + 1) * share)
    loaders = Loaders(
        FakeLoader(batches, rows=rows),
        FakeLoader(1, seed=9, train=False, rows=rows),
        list("abcde"),
        "fake",
    )
    settings = {"arch": f"{__name__}:tiny_network", "data": Path("fake"), "out": Path("unused")}
    settings |= {"image_size": SIZE, "batch_size": share, "epochs": 2, "seed": 11, "amp": "none"}
    settings |= {"lr": 0.2, "weight_decay": 0.01, "warmup_epochs": 2 / batches}
    name = method if isinstance(method, str) else method.name
    config = TrainConfig(method=name, **settings | options)
    config.check()
    config = dataclasses.replace(resolve(config, world), out=out)
    with contextlib.ExitStack() as replaced:

        def replace(where: Any, what: str, value: Any) -> None:
            replaced.enter_context(mock.patch.object(where, what, lambda *_, **__: value))

        replace(build, "scan", SimpleNamespace(classes=loaders.classes))
        replace(build, "build_loaders", loaders)
        if model is not None:
            replace(models, "create_model", model)
        if isinstance(method, Method):
            replace(build, "build_method", method)
        trainer = build.build_trainer(config, world, Display(live=False))
    trainer.record = {"arch": "tiny"}  # runs in several folders are compared
    return trainer
