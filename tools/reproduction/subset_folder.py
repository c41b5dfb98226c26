"""A part of a data set as an image folder: what a scaled-down run trains and is measured on."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from reproduction.datasets import CIFAR, DataSet
from sprout_fast.data import scan
from sprout_fast.data.readers.decoded import balanced_subset, read_decoded
from sprout_fast.data.readers.listing import FileSplit
from sprout_fast.errors import UserError

# (index in the split, path without a suffix): writes the image there.
Write = Callable[[int, Path], None]


def part_of(data: Path, of: DataSet, out: Path, *, train: int, test: int, seed: int) -> Path:
    """A folder in ``out`` with so many images of each split, evenly over the classes.

    CIFAR-10's images are written as PNG, whatever ``data`` holds them in; ImageNet's are links.
    A folder that is there already is left as it is.

    Args:
        train, test: how many images; at least one of each class, all where there are fewer.
        seed: of the choice.

    Raises:
        UserError: as the readers do; ImageNet in tars.
    """
    key = hashlib.sha256(f"{data.resolve()} {seed}".encode()).hexdigest()[:8]
    folder = out / f"{of.name.lower()}-{train}-{test}-{key}"
    if folder.exists():
        return folder
    beside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(beside, ignore_errors=True)  # of a run that was stopped
    classes, splits = (_decoded if of is CIFAR else _listed)(data)
    for (name, (labels, write)), count in zip(splits.items(), (train, test), strict=True):
        for index in balanced_subset(labels, max(count, len(classes)), seed):
            path = beside / name / classes[labels[index]] / f"{index:07d}"
            path.parent.mkdir(parents=True, exist_ok=True)
            write(index, path)
    os.replace(beside, folder)
    return folder


Splits = dict[str, tuple[Sequence[int], Write]]


def _decoded(data: Path) -> tuple[list[str], Splits]:
    found = read_decoded(data)

    def writer(split) -> tuple[Sequence[int], Write]:
        def write(index: int, path: Path) -> None:
            Image.fromarray(split.images[index].numpy()).save(path.with_suffix(".png"))

        return split.labels.tolist(), write

    return found.classes, {"train": writer(found.train), "val": writer(found.val)}


def _listed(data: Path) -> tuple[list[str], Splits]:
    listing = scan(data)
    if not isinstance(listing.train, FileSplit):
        raise UserError(f"--imagenet {data}: takes a folder of image files below --scale 1")

    def linker(split: FileSplit) -> tuple[Sequence[int], Write]:
        def write(index: int, path: Path) -> None:
            file = Path(split.paths[index]).resolve()
            path.with_suffix(file.suffix).symlink_to(file)

        return split.labels, write

    return listing.classes, {"train": linker(listing.train), "val": linker(listing.val)}
