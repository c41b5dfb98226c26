#!/usr/bin/env python
"""Time random crop and flip of a batch of CIFAR-10's size: batched vs one image at a time.

python tests/benchmarks/bench_data_memory.py

The contestants take turns, and their fastest and median turns are compared, so that machine load
affects all of them alike. MemoryLoader's time includes selecting the images and building the batch;
that of torchvision's transforms does not, nor does that of its PIL transforms include decoding.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat

import numpy as np
import torch
import torchvision.transforms as v1
import tyro
from PIL import Image
from torchvision.transforms import v2

from sprout_fast.data.listing import ArraySplit
from sprout_fast.data.loaders.augmentation import PADDING
from sprout_fast.data.loaders.memory import MemoryLoader

_BATCHES = 390  # per epoch, as for CIFAR-10 at batch size 128


@dataclass
class Options:
    """Command-line options."""

    batch_size: int = 128
    image_size: int = 32
    threads: int = 2
    rounds: int = 50
    """Number of turns of each contestant, of a few calls each."""


def contestants(options: Options) -> dict[str, Callable[[], object]]:
    """Return the calls to time, by name."""
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

    single = {
        name: kind.Compose([kind.RandomCrop(side, PADDING), kind.RandomHorizontalFlip()])
        for name, kind in (("v1", v1), ("v2", v2))
    }
    return {
        "MemoryLoader": lambda: next(batches),
        "torchvision v1, tensors": partial(each, single["v1"], tensors),
        "torchvision v1, PIL": partial(each, single["v1"], pil),
        "torchvision v2, tensors": partial(each, single["v2"], tensors),
        "torchvision v2, PIL": partial(each, single["v2"], pil),
    }


def main() -> None:
    """Print milliseconds per batch, and the speedup over torchvision's fastest transforms."""
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
    print(f"batch of {options.batch_size}, {options.threads} threads; ms per batch; speedup")
    for label, of in (("fastest", min), ("median", statistics.median)):
        theirs = min(of(found) for name, found in times.items() if name.startswith("torchvision"))
        for name, found in times.items():
            ratio = theirs / of(found)
            print(f"{label:>8}  {name:24} {1e3 * of(found):7.3f} ms  {ratio:5.2f}")


if __name__ == "__main__":
    main()
