"""Options of the loaders: how images are read and decoded, and augmented for training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from sprout_fast.errors import UserError

# Strengths of an operation of TrivialAugment or RandAugment, as in torchvision and DALI.
MAGNITUDES = 31


@dataclass
class LoadingOptions:
    """How images are read and decoded, which changes the speed and the memory, never the batches.

    Options of DALI's have its names, units and defaults.

    >>> LoadingOptions(decode="cpu", prefetch=4).prefetch
    4
    """

    group = "loading"

    decode: Literal["auto", "cpu", "gpu"] = "auto"
    """Where dali decodes: on the GPU if there is one (auto), or always on the CPU."""
    prefetch: int = 2
    """Batches to decode ahead, in DALI's pipeline or in each process of torch."""
    read_threads: int | None = None
    """Threads that read files for dali. Default: as many as decode."""
    read_ahead: int = 3
    """Batches of files to read ahead of DALI's pipeline."""
    hw_decoder_load: float = 0.65
    """Share of the images that dali gives to the GPU's JPEG engine (A100, H100 and newer)."""
    device_memory_padding: int = 16777216
    """Bytes of GPU memory that each of DALI's threads reserves for decoding."""
    host_memory_padding: int = 8388608
    """Bytes of pinned memory that each of DALI's threads reserves twice for decoding on a GPU."""

    def check_loading(self) -> None:
        """Raise ``UserError`` if an option is out of range."""
        names = ("prefetch", "read_threads", "read_ahead")
        low = dict.fromkeys(names, 1) | {"device_memory_padding": 0, "host_memory_padding": 0}
        for name, least in (low | {"read_ahead": 0}).items():
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise UserError(f"{value}: expected a number of at least {least}", option=name)
        if not 0 <= self.hw_decoder_load <= 1:
            message = f"{self.hw_decoder_load}: expected a number from 0 to 1"
            raise UserError(message, option="hw_decoder_load")
        if self.decode not in ("auto", "cpu", "gpu"):
            raise UserError(f"{self.decode}: expected one of auto, cpu, gpu", option="decode")


@dataclass
class AugmentationOptions:
    """How training images are varied, besides by random crops and flips.

    >>> AugmentationOptions(auto_augment="trivial", erasing=0.1).erasing
    0.1
    """

    group = "augmentation"

    auto_augment: Literal["none", "trivial", "rand"] = "none"
    """Distort the colors and the shape of training images: by one operation of random strength
    (trivial: TrivialAugment Wide), or by --rand-ops operations of --rand-magnitude (rand:
    RandAugment). With dali and torch, each by its own library."""
    rand_ops: int = 2
    """Operations per image of RandAugment."""
    rand_magnitude: int = 9
    """Strength of RandAugment's operations, from 0 to 30."""
    erasing: float = 0.0
    """Probability of erasing a random rectangle of a training image."""
    repeated_augmentation: int = 1
    """Times that an epoch shows each of its images, augmented differently. An epoch keeps its
    length, and so has a part of the images, drawn anew for each."""

    def check_augmentation(self) -> None:
        """Raise ``UserError`` if an option is out of range."""
        if self.auto_augment not in (policies := ("none", "trivial", "rand")):
            message = f"{self.auto_augment}: expected one of {', '.join(policies)}"
            raise UserError(message, option="auto_augment")
        for name, low, high in (
            ("rand_ops", 1, math.inf),
            ("rand_magnitude", 0, MAGNITUDES - 1),
            ("erasing", 0, 1),
            ("repeated_augmentation", 1, math.inf),
        ):
            if not low <= (value := getattr(self, name)) <= high or value == math.inf:
                bounds = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
                raise UserError(f"{value}: expected a number {bounds}", option=name)
