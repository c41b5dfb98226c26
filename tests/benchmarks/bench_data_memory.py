#!/usr/bin/env python
"""Random crop and flip of a batch of CIFAR-10's size: in batch against an image at a time.

python tests/benchmarks/bench_data_memory.py

The contestants take turns, and their fastest and median turns are compared, so work of others on
the machine falls on all of them alike. torchvision's transforms are spared choosing the images and
making a batch of what they give, and its PIL ones the decoding; ours does it all.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import numpy as np
import torch
import torchvision.transforms as v1
import tyro
from PIL import Image
from torchvision.transforms import v2

from sprout_fast.data.listing import ArraySplit
from sprout_fast.data.loaders.augmentation import PADDING
from sprout_fast.data.loaders.memory import MemoryLoader

_BATCHES = 390  # an epoch's, as CIFAR-10's at 128


@dataclass
class Options:
    """What the command line takes."""

    batch_size: int = 128
    image_size: int = 32
    threads: int = 2
    rounds: int = 50
    """Turns of each contestant, of a few calls each."""


def contestants(options: Options) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    batch, side = options.batch_size, options.image_size
    images = torch.randint(256, (_BATCHES * batch, side, side, 3), dtype=torch.uint8)
    loader = MemoryLoader(
        ArraySplit(np.zeros(len(images), np.int64), images.numpy()),
        train=True,
        batch_size=batch,
        device=torch.device("cpu"),
        seed=0,
    )
    batches = chain.from_iterable(repeat(loader))  # epoch after epoch
    images = images[:batch]
    tensors = list(images.permute(0, 3, 1, 2).contiguous())
    pil = [Image.fromarray(image.numpy()) for image in images]

    def each(transforms, inputs: list) -> list:
        return [transforms(image) for image in inputs]

    of_one = {
        name: kind.Compose([kind.RandomCrop(side, PADDING), kind.RandomHorizontalFlip()])
        for name, kind in (("v1", v1), ("v2", v2))
    }
    return {
        "MemoryLoader": lambda: next(batches),
        "torchvision v1, tensors": partial(each, of_one["v1"], tensors),
        "torchvision v1, PIL": partial(each, of_one["v1"], pil),
        "torchvision v2, tensors": partial(each, of_one["v2"], tensors),
        "torchvision v2, PIL": partial(each, of_one["v2"], pil),
    }


def main() -> None:
    """Print milliseconds a batch and how many times as fast as torchvision's fastest it is."""
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(options.threads)
    calls = contestants(options)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(options.rounds + 1):
        for name, call in calls.items():
            repeats = 1 if name.startswith("torchvision") else 10
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            if turn:  # the first one warms up
                times[name].append((time.perf_counter() - start) / repeats)
    print(f"batch of {options.batch_size}, {options.threads} threads; ms a batch; times as fast")
    for label, of in (("fastest", min), ("median", statistics.median)):
        theirs = min(of(taken) for name, taken in times.items() if name.startswith("torchvision"))
        for name, taken in times.items():
            ratio = theirs / of(taken)
            print(f"{label:>8}  {name:24} {1e3 * of(taken):7.3f} ms  {ratio:5.2f}")


if __name__ == "__main__":
    main()
