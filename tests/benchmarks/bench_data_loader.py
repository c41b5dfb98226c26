#!/usr/bin/env python
"""Images per second from JPEG files to uint8 batches of 224 x 224: DALI (CPU) vs torchvision.

python tests/benchmarks/bench_data_loader.py --data /imagenet_sample

The contestants take turns, each with new threads or processes and a warm-up in every round, and
their medians are compared, so that machine load affects all of them alike. CPU time per image, of
the process and its workers, hardly depends on that load. The training files are linked several
times, so that the start of an epoch does not dominate on small data sets.
"""

from __future__ import annotations

import contextlib
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice, repeat
from pathlib import Path

import torch
import tyro
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from sprout_fast.data import build_loaders, scan


@dataclass
class Options:
    """Command-line options."""

    data: Path
    """Image folder in ImageNet's layout."""
    rounds: int = 7
    """Number of turns of each contestant."""
    images: int = 1500
    """Images per turn."""
    batch_size: int = 50
    image_size: int = 224
    workers: int = 2
    """Threads (DALI) or processes (torch)."""


def ours(name: str, data: Path, options: Options):
    """Return the training loader of ``build_loaders``."""
    return build_loaders(
        data,
        loader=name,
        batch_size=options.batch_size,
        image_size=options.image_size,
        device=torch.device("cpu"),
        seed=0,
        workers=options.workers,
    ).train


def plain(data: Path, options: Options):
    """Return torchvision's image folder and v2 transforms on PIL images, as in its examples."""
    transform = v2.Compose(
        [v2.RandomResizedCrop(options.image_size), v2.RandomHorizontalFlip(), v2.PILToTensor()]
    )
    return DataLoader(
        ImageFolder(data / "train", transform),
        options.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        persistent_workers=True,
    )


CONTESTANTS = {
    "dali": lambda data, options: ours("dali", data, options),
    "torch": lambda data, options: ours("torch", data, options),
    "plain torchvision": plain,
}


def rate(batches: Iterator[tuple[Tensor, Tensor]], options: Options) -> tuple[float, float]:
    """Return images per second after a warm-up, and milliseconds of CPU time per image."""
    count = options.images // options.batch_size
    for _ in islice(batches, 6):
        pass
    start, used = time.perf_counter(), cpu_seconds()
    seen = sum(len(labels) for _, labels in islice(batches, count))
    return seen / (time.perf_counter() - start), 1e3 * (cpu_seconds() - used) / seen


def cpu_seconds() -> float:
    """Return the CPU time of this process, with all its threads, and of its child processes."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended
            fields = path.read_text().rpartition(")")[2].split()
            if os.getpid() in (int(path.parent.name), int(fields[1])):
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def linked(data: Path, images: int, root: Path) -> Path:
    """Create an image folder with ``images`` links to the training files of ``data``, repeated."""
    split = scan(data).train
    files = [(split.path(index), label) for index, label in enumerate(split.labels.tolist())]
    for number, (path, label) in enumerate(islice(chain.from_iterable(repeat(files)), images)):
        folder = root / "train" / f"{label:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:06d}{Path(path).suffix}").symlink_to(Path(path).resolve())
    (root / "val").symlink_to(root / "train")
    return root


def main() -> None:
    """Print images per second of each round, and median ratios."""
    options = tyro.cli(Options, description=__doc__)
    rates: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    costs: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    with tempfile.TemporaryDirectory() as folder:
        data = linked(options.data, options.images + 8 * options.batch_size, Path(folder))
        for number in range(options.rounds):
            for name, make in CONTESTANTS.items():
                loader = make(data, options)
                images_per_second, cost = rate(iter(loader), options)
                rates[name].append(images_per_second)
                costs[name].append(cost)
                del loader
                gc.collect()
            print(f"round {number}: " + ", ".join(f"{n} {r[-1]:.0f}" for n, r in rates.items()))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, median in medians.items():
        ratio = statistics.median(
            [dali / other for dali, other in zip(rates["dali"], rates[name], strict=True)]
        )
        cost = statistics.median(costs[name])
        share = statistics.median(costs["dali"]) / cost
        print(
            f"{name}: median {median:.0f} images/s, {cost:.2f} ms of CPU per image; "
            f"dali is {ratio:.2f} times as fast, with {share:.2f} of its CPU time"
        )


if __name__ == "__main__":
    main()
