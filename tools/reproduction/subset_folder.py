"""A subset of a data set as an image folder, for scaled-down trainings and measurements."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from reproduction.datasets import CIFAR, DataSet
from reproduction.locks import locked
from sprout_fast.data import Split, balanced_subset, scan
from sprout_fast.data.listing import FileSplit
from sprout_fast.errors import UserError

# Called with an index in the split and a path without suffix; writes the image to that path.
Write = Callable[[int, Path], None]
Splits = dict[str, tuple[Sequence[int], Write]]
#: Lists the images of a complete subset.
_LIST = "images.txt"


def subset_folder(
    data: Path, dataset: DataSet, out: Path, *, train: int, test: int, seed: int
) -> Path:
    """Create an image folder in ``out`` with a class-balanced subset, and return its path.

    CIFAR-10's images are written as PNG files, ImageNet's as symbolic links. The folder appears
    when it is complete, whichever of several processes makes it, and is then reused.

    Args:
        data: the whole data set.
        dataset: which one it is.
        out: parent folder.
        train, test: number of images per split; at least one per class, at most all.
        seed: seed of the selection.

    Raises:
        UserError: the data set cannot be read, or is ImageNet in tars, or images of an existing
            folder are missing.
    """
    key = hashlib.sha256(f"{data.resolve()} {seed}".encode()).hexdigest()[:8]
    folder = out / f"{dataset.name.lower()}-{train}-{test}-{key}"
    with locked(folder):
        if folder.exists():
            _check(folder)
            return folder
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=out))
        try:
            _fill(temporary, data, dataset, (train, test), seed)
            temporary.chmod(0o755)  # mkdtemp's is private
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _fill(folder: Path, data: Path, dataset: DataSet, counts: tuple[int, int], seed: int) -> None:
    classes, splits = (_decoded if dataset is CIFAR else _listed)(data)
    for (name, (labels, write)), count in zip(splits.items(), counts, strict=True):
        for index in balanced_subset(np.array(labels), max(count, len(classes)), seed).tolist():
            path = folder / name / classes[labels[index]] / f"{index:07d}"
            path.parent.mkdir(parents=True, exist_ok=True)
            write(index, path)
    (folder / _LIST).write_text("".join(f"{name}\n" for name in _images(folder)))


def _images(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.glob("*/*/*") if path.exists())


def _check(folder: Path) -> None:
    """Raise ``UserError`` unless the folder has the images that it was made with."""
    listed = folder / _LIST
    expected = listed.read_text().splitlines() if listed.exists() else None
    found = _images(folder)
    if found != expected:
        wanted = f"the {len(expected):,} of {_LIST}" if expected else f"a list of them, {_LIST}"
        raise UserError(
            f"{folder}: has {len(found):,} images, expected {wanted}; remove the folder and what"
            " was trained on it",
            option="out",
        )


def _decoded(data: Path) -> tuple[list[str], Splits]:
    found = scan(data)

    def writer(split: Split) -> tuple[Sequence[int], Write]:
        images = split.decode()

        def write(index: int, path: Path) -> None:
            Image.fromarray(images[index]).save(path.with_suffix(".png"))

        return split.labels.tolist(), write

    return found.classes, {"train": writer(found.train), "val": writer(found.val)}


def _listed(data: Path) -> tuple[list[str], Splits]:
    listing = scan(data)

    def linker(split: Split) -> tuple[Sequence[int], Write]:
        if not isinstance(split, FileSplit):
            raise UserError(
                f"{data}: expected a folder of image files, since the scale is below 1",
                option="imagenet",
            )

        def write(index: int, path: Path) -> None:
            file = Path(split.path(index)).resolve()
            path.with_suffix(file.suffix).symlink_to(file)

        return split.labels.tolist(), write

    return listing.classes, {"train": linker(listing.train), "val": linker(listing.val)}
