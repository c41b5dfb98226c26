"""A tiny network, data and settings for tests of the training loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from sprout_fast.data import Loaders
from sprout_fast.distributed import World
from sprout_fast.methods import Method, MethodSetting, build_method
from sprout_fast.models import Normalized
from sprout_fast.training.config import parse_interval
from sprout_fast.training.loop import Trainer, steps_per_epoch
from sprout_fast.training.optim import MovingAverage, build_optimizer, build_scheduler
from sprout_fast.training.progress import Display
from sprout_fast.training.step import OptimizeStep

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


def tiny_network() -> nn.Module:
    """Return a small network with batch norm and dropout, always with the same weights."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(8, CLASSES),
    )


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
    epochs: int = 2,
    batches: int = 4,
    accumulation_steps: int = 1,
    lr: float = 0.2,
    amp_dtype: torch.dtype | None = None,
    fp16: bool = False,
    ema: float | None = None,
    keep_every: int | None = None,
    save_every: str | None = None,
    detect_anomaly: bool = False,
    world: World = WORLD,
    **options: Any,
) -> Trainer:
    """Return a trainer of :func:`tiny_network` on a ``FakeLoader``."""
    model = model or tiny_network()
    averages = None if ema is None else MovingAverage(model, ema)
    if isinstance(method, str):
        dtype = amp_dtype or torch.float32
        method = build_method(
            method, method_setting(accumulation_steps=accumulation_steps, dtype=dtype), **options
        )
    steps = steps_per_epoch(batches, accumulation_steps, method.passes)
    optimizer = build_optimizer("sgd", model, lr=lr, momentum=0.9, weight_decay=0.01)

    return Trainer(
        model=model,
        evaluated=Normalized(model if averages is None else averages.module, MEAN, STD),
        method=method,
        optimize=OptimizeStep(
            model,
            Normalized(model, MEAN, STD),
            optimizer,
            build_scheduler(optimizer, warmup_steps=2, total_steps=epochs * steps),
            GradScaler("cpu", enabled=fp16),
            accumulation_steps=accumulation_steps,
            amp_dtype=amp_dtype,
            ema=averages,
            detect_anomaly=detect_anomaly,
        ),
        loaders=Loaders(
            FakeLoader(batches), FakeLoader(1, seed=9, train=False), list("abcde"), "fake"
        ),
        epochs=epochs,
        world=world,
        out=out,
        record={"arch": "tiny"},
        display=Display(live=False),
        keep_every=keep_every,
        save_every=None if save_every is None else parse_interval(save_every),
    )
