"""Options of ``tools/benchmark_training.py``; imports no torch, so that ``--help`` is fast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sprout_fast.cli import Auto
from sprout_fast.errors import UserError

# Each class is a group of --help, and the docstrings are its help texts.


@dataclass
class RowOptions:
    """What to measure."""

    arch: str = "cifar_vgg16"
    """A network for 32 pixels, e.g. cifar_vgg16, cifar_resnet18 or cifar_wrn34_10, or any
    torchvision classification model, e.g. resnet152."""
    methods: str = "all"
    """Comma-separated methods, or all. natural is always included."""
    baselines: str = "all"
    """Comma-separated baselines (torchvision, timm, two-passes, authors), all, or none."""
    parts: Auto[str] = None
    """Comma-separated methods whose steps are also timed part by part, or none. Default: natural,
    and sprout if it is measured."""


@dataclass
class DataOptions:
    """The batches."""

    group = "data"

    image_size: Auto[int] = None
    """Image height and width in pixels. Default: 32 for cifar_*, else 224."""
    batch_size: Auto[int] = None
    """Images per batch. Default: 128 for images up to 64 pixels, else 64 (4 on a CPU)."""
    data: Auto[Path] = None
    """Data set to read batches from; a step's time then includes loading. Default: random images on
    the device."""
    loader: Auto[Literal["memory", "dali", "torch"]] = None
    """Loader for --data. Default: memory for images up to 64 pixels, else dali if installed, else
    torch."""
    images_per_epoch: Auto[int] = None
    """Images per epoch, for the times per epoch. Default: the size of --data, else that of
    CIFAR-10 for images up to 64 pixels and of ImageNet for larger ones."""


@dataclass
class TimingOptions:
    """How long to measure."""

    group = "timing"

    budget: float = 600.0
    """Seconds for everything. An estimate is printed first, and rows for which there is no time are
    left out, the slowest first; natural is always timed."""
    rounds: int = 20
    """Maximum number of turns per row. Slow rows get fewer, within --budget."""
    steps: Auto[int] = None
    """Steps per turn. Default: as many as natural training makes in a quarter of a second."""


@dataclass
class DeviceOptions:
    """Device and precision."""

    group = "device"

    device: Auto[str] = None
    """Device, e.g. cuda, cuda:1, cpu. Default: cuda if available, else cpu."""
    world: Auto[int] = None
    """Number of processes, each with a GPU and a part of --data, that train together as in
    DistributedDataParallel; img/s is that of all. torchrun may start them too. Default: 1."""
    threads: Auto[int] = None
    """Number of CPU threads. Default: chosen by torch."""
    amp: Auto[Literal["none", "bf16", "fp16"]] = None
    """Mixed precision. Default: bf16 on CUDA, none on CPU."""
    channels_last: bool = True
    """Use the channels-last memory format."""


@dataclass
class OutputOptions:
    """What to write."""

    group = "output"

    json: Auto[Path] = None
    """Write every raw time to this JSON file."""
    markdown: Auto[Path] = None
    """Write the tables to this Markdown file."""


@dataclass
class Options(OutputOptions, DeviceOptions, TimingOptions, DataOptions, RowOptions):
    """Command-line options; None means that the program chooses."""

    def check(self) -> None:
        """Raise ``UserError`` if an option is out of range."""
        minimum = {
            "image_size": 8,
            "batch_size": 2,  # Mixup needs a partner, batch norm a variance
            "rounds": 1,
            "steps": 1,
            "budget": 0,
            "threads": 1,
            "world": 1,
            "images_per_epoch": 1,
        }
        for name, low in minimum.items():
            value = getattr(self, name)
            if value is not None and not low <= value < float("inf"):  # also rejects NaN
                raise UserError(f"{value}: must be a number >= {low}", option=name)
        if self.loader is not None and self.data is None:
            raise UserError(f"{self.loader}: requires data to load from", option="loader")
        for name in ("json", "markdown"):  # checked before minutes of measuring, not after
            path = getattr(self, name)
            if path is not None and not path.parent.is_dir():
                raise UserError(f"{path}: no such folder: {path.parent}", option=name)
