"""Decode every image of a data set, to find those that training would refuse or convert."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sprout_fast.data.decode import decode
from sprout_fast.data.listing import Split
from sprout_fast.data.scanning import scan
from sprout_fast.errors import UserError

_CHUNK = 256  # images per round of the threads


@dataclass(frozen=True)
class SplitReport:
    """The contents of one split; sizes are (width, height), None if no image is readable."""

    name: str  #: ``"train"``, ``"val"`` or ``"train and val"``.
    num_images: int
    per_class: dict[str, int]  #: Number of images by class name.
    smallest: tuple[int, int] | None  #: Size in pixels of the readable image of least area.
    largest: tuple[int, int] | None  #: Likewise of the greatest area.
    unreadable: list[str]  #: ``<name>: <reason>`` for each image that training would refuse.
    #: For each conversion to 8-bit RGB, the number of images and the name of the first.
    converted: dict[str, tuple[int, str]]


def verify(data: str | Path, *, workers: int = 2) -> Iterator[SplitReport]:
    """Decode all images of ``data`` as every loader does, by ``workers`` threads; report by split.

    Raises:
        UserError: the data set is missing, empty or inconsistent.
    """
    listing = scan(data, cached=False)
    splits = {"train": listing.train, "val": listing.val}
    if listing.train is listing.val:
        splits = {"train and val": listing.train}
    for name, split in splits.items():
        yield _verify_split(name, split, listing.classes, workers)


def _verify_split(name: str, split: Split, classes: list[str], workers: int) -> SplitReport:
    sizes: set[tuple[int, int]] = set()
    converted: dict[str, tuple[int, str]] = {}
    unreadable = []

    def check(index: int) -> tuple[tuple[int, int], tuple[str, ...]] | UserError:
        try:
            pixels, conversions = decode(split.read(index), split.name(index))
        except UserError as error:
            return error
        return (pixels.shape[1], pixels.shape[0]), conversions

    with ThreadPoolExecutor(workers) as pool:  # Pillow decodes outside the GIL
        for first in range(0, len(split), _CHUNK):
            indices = range(first, min(first + _CHUNK, len(split)))
            for index, result in zip(indices, pool.map(check, indices), strict=True):
                if isinstance(result, UserError):
                    unreadable.append(str(result))
                    continue
                size, conversions = result
                sizes.add(size)
                for conversion in conversions:
                    count, example = converted.get(conversion, (0, split.name(index)))
                    converted[conversion] = (count + 1, example)
    by_area = sorted(sizes, key=lambda size: size[0] * size[1])
    per_label = np.bincount(split.labels, minlength=len(classes)).tolist()
    per_class = dict(zip(classes, per_label, strict=True))
    smallest, largest = (by_area[0], by_area[-1]) if by_area else (None, None)
    return SplitReport(name, len(split), per_class, smallest, largest, unreadable, converted)
