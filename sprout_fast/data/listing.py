"""The contents of a data set: class names and, for each split, encoded images with labels."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from sprout_fast.data.decode import as_ppm, decode_images
from sprout_fast.data.names import Names, printable
from sprout_fast.data.regular import open_regular
from sprout_fast.errors import UserError
from sprout_fast.registry import Registry


@dataclass(frozen=True, eq=False)
class Split(ABC):
    """Labeled images in their encoded form, wherever they are stored.

    Every field that is a NumPy array has one row per image. Arrays rather than lists, because
    worker processes would copy the pages of a million Python objects one by one.

    Attributes:
        labels: int64 [N], in [0, K).
    """

    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the name of an image, as printed in messages."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """Return the content of an image file.

        Raises:
            UserError: the file cannot be read; the message names it.
        """

    def subset(self, indices: np.ndarray) -> Split:
        """Return the split with only the images at ``indices``, int64 [n]."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        arrays = {k: v[indices] for k, v in values.items() if isinstance(v, np.ndarray)}
        return replace(self, **arrays)

    def shuffled(self, random: np.random.Generator) -> np.ndarray:
        """Return all indices, int64 [N], in an order to train in."""
        return random.permutation(len(self))

    def decode(self) -> np.ndarray:
        """Decode all images, which must be of one size, to uint8 [N, H, W, 3].

        Raises:
            UserError: an image cannot be read or decoded or has another size; it is named.
        """
        return decode_images(len(self), self.name, self.read)


@dataclass(frozen=True, eq=False)
class FileSplit(Split):
    """Image files."""

    root: str  # the folder that the names are relative to
    names: Names
    row: np.ndarray  # int64 [N], which of the names is the image's

    def path(self, index: int) -> str:
        """Return the path of an image file."""
        name = self.names[self.row[index]].encode("utf-8", "surrogateescape")
        # Whatever the encoding of the file system's names.
        return os.path.join(self.root, os.fsdecode(name))

    def name(self, index: int) -> str:
        return printable(self.path(index))

    def read(self, index: int) -> bytes:
        try:
            with open_regular(self.path(index)) as file:
                return file.read()
        except OSError as error:
            raise UserError(f"{self.name(index)}: cannot be read ({error.strerror})") from error


@dataclass(frozen=True, eq=False)
class ArraySplit(Split):
    """Images that are decoded already; ``source`` names them in messages.

    >>> ArraySplit(np.array([1]), np.zeros((1, 2, 4, 3), np.uint8), "zeros").decode().shape
    (1, 2, 4, 3)
    """

    images: np.ndarray  # uint8 [N, H, W, 3]
    source: str = "array"

    def name(self, index: int) -> str:
        return f"{self.source}: image {index}"

    def read(self, index: int) -> bytes:
        return as_ppm(self.images[index])

    def decode(self) -> np.ndarray:
        return self.images


Stamp = tuple[int, int]  # time of the last change in nanoseconds, and size in bytes


def stamp(path: str | Path) -> Stamp:
    """Return what changes when an entry of a folder or the content of a file does."""
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size


@dataclass(frozen=True)
class Listing:
    """A whole data set.

    Attributes:
        classes: names of the K classes, in the order of the labels.
        train: training images.
        val: validation images; the same object as ``train`` if one set serves as both.
        layout: a few words on how the data set was found, for the log.
        sources: the folders and files that determine the listing, each with its :func:`stamp`
            before it was read; None if that is not all that does.
    """

    classes: list[str]
    train: Split
    val: Split
    layout: str
    sources: Mapping[str, Stamp] | None = None


#: Readers by name. A reader returns the listing of a path, or None if the path is not of its kind.
READERS: Registry[Callable[[Path], Listing | None]] = Registry("reader", "sprout_fast.data.readers")


def check_val_classes(val: Collection[str], train: Collection[str], data: Path) -> None:
    """Raise ``UserError``, naming the first few, if ``val`` has classes that ``train`` lacks."""
    extra = sorted(set(val) - set(train))
    if extra:
        named = ", ".join(map(printable, extra[:3]))
        named += f" and {len(extra) - 3} more" if len(extra) > 3 else ""
        raise UserError(
            f"{printable(data)}: class {named} in val has no training images; "
            "the classes of val must be among those of train"
        )
