"""The contents of a data set: class names and, for each split, encoded images with labels."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from sprout_fast.data.decode import as_ppm, decode_images
from sprout_fast.data.names import printable
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

    paths: np.ndarray  # bytes [N], as encode_names packs them

    def path(self, index: int) -> str:
        """Return the path of an image file."""
        return os.fsdecode(self.paths[index])  # whatever the encoding of the file system's names

    def name(self, index: int) -> str:
        return printable(self.path(index))

    def read(self, index: int) -> bytes:
        try:
            with open(self.path(index), "rb") as file:
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


@dataclass(frozen=True)
class Listing:
    """A whole data set.

    Attributes:
        classes: names of the K classes, in the order of the labels.
        train: training images.
        val: validation images; the same object as ``train`` if one set serves as both.
        layout: a few words on how the data set was found, for the log.
    """

    classes: list[str]
    train: Split
    val: Split
    layout: str


#: Readers by name. A reader returns the listing of a path, or None if the path is not of its kind.
READERS: Registry[Callable[[Path], Listing | None]] = Registry("reader", "sprout_fast.data.readers")


def scan(data: str | Path) -> Listing:
    """List a data set of any kind that a reader recognizes.

    Args:
        data: CIFAR-10 or CIFAR-100 as torchvision downloads it, WebDataset tars, a tar of an image
            folder, or an image folder.

    Raises:
        UserError: the data set is missing, empty, unreadable or inconsistent.
    """
    data = Path(data)
    try:
        # Every tar and every folder is a tar or a folder of classes if it is nothing else.
        for name in sorted(READERS, key=lambda name: (name in ("tar", "folder"), name)):
            if (listing := READERS[name](data)) is not None:
                return listing
    except OSError as error:  # no permission, a broken mount
        where = printable(error.filename or data)
        raise UserError(f"{where}: cannot be read ({error.strerror or error})") from error
    raise UserError(f"{printable(data)}: no such folder or file")


def encode_names(names: Iterable[str]) -> np.ndarray:
    """Pack names of any characters, undecodable bytes included, into an array of bytes [N]."""
    return np.array([name.encode("utf-8", "surrogateescape") for name in names], np.bytes_)


def decode_name(name: bytes) -> str:
    """Undo :func:`encode_names` for one name."""
    return name.decode("utf-8", "surrogateescape")


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
