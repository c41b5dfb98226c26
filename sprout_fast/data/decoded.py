"""Small images read into memory: CIFAR-10 and -100, image folders, tars of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.io import ImageReadMode, decode_image

from sprout_fast.data.folder import scan_folder
from sprout_fast.data.image_tar import scan_image_tar
from sprout_fast.data.listing import FileSplit
from sprout_fast.errors import UserError

_CIFARS = (CIFAR10, CIFAR100)


@dataclass(frozen=True)
class DecodedSplit:
    """Images uint8 [N, H, W, 3] and their labels int64 [N], in [0, K)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class DecodedSet:
    """A whole data set. `layout` says in a few words how it was found."""

    classes: list[str]
    train: DecodedSplit
    val: DecodedSplit
    layout: str


def read_decoded(data: Path, *, limit_train: int | None = None, seed: int = 0) -> DecodedSet:
    """Read and decode a data set of images that are all of one size.

    Args:
        data: a folder that holds ``cifar-10-batches-py`` or ``cifar-100-python``, or is one of
            them (torchvision's format; the files' checksums are compared); a folder
            ``train/<class>/*`` and ``val/<class>/*`` or ``test/<class>/*``; or a tar of such a
            folder, plain or gzip.
        limit_train: take so many training images, chosen by `balanced_subset`. What is left out
            is not decoded.
        seed: of that choice.

    Raises:
        UserError: the data set is missing, empty or inconsistent, or `limit_train` is below 1; a
            file cannot be decoded, or is of another size than the first.
    """
    data = Path(data)
    if limit_train is not None and limit_train < 1:
        raise UserError(f"--limit-train {limit_train}: takes 1 and more")
    if not data.exists():
        raise UserError(f"{data}: no such file or folder")
    if found := [(kind, root) for kind in _CIFARS for root in _roots(kind, data)]:
        if len(found) > 1:
            names = " and ".join(kind.base_folder for kind, _ in found)
            raise UserError(f"{data}: holds both {names}; give one of the two folders")
        return _read_cifar(*found[0], limit_train, seed)
    if data.is_dir():
        listing, read = scan_folder(data), _read_file
    else:
        listing, read = scan_image_tar(data)
    kept = listing.train
    if limit_train is not None:
        chosen = balanced_subset(kept.labels, limit_train, seed)
        kept = FileSplit([kept.paths[i] for i in chosen], [kept.labels[i] for i in chosen])
    train = _decoded(kept, read)
    val = train if kept is listing.val else _decoded(listing.val, read)
    if train.images.shape[1:] != val.images.shape[1:]:
        raise UserError(_another_size(listing.val.paths[0], val.images[0], train.images[0]))
    return DecodedSet(listing.classes, train, val, listing.layout)


def balanced_subset(labels: Sequence[int], count: int, seed: int) -> list[int]:
    """Choose `count` of N images, as evenly over the classes as there are images of them.

    Each class gives its first image, in an order drawn for it, before any gives its second. So a
    smaller subset is part of a larger one of the same seed.

    Returns:
        the indices, rising; all N where `count` is larger.

    >>> labels = [0] * 6 + [1] * 6 + [2]
    >>> [labels[i] for i in balanced_subset(labels, 7, seed=0)]
    [0, 0, 0, 1, 1, 1, 2]
    """
    random = np.random.default_rng([seed, 2])
    order = random.permutation(len(labels))
    order = order[np.argsort(np.asarray(labels)[order], kind="stable")]  # drawn order in a class
    _, starts, class_of, counts = np.unique(
        np.asarray(labels)[order], return_index=True, return_inverse=True, return_counts=True
    )
    turn = np.arange(len(order)) - starts[class_of]
    first = random.permutation(len(counts))  # which classes give one more than the others
    return np.sort(order[np.lexsort((first[class_of], turn))][:count]).tolist()


def _roots(kind: type[CIFAR10], data: Path) -> list[Path]:
    """Where torchvision would find `kind`, if `data` is or holds its folder."""
    if data.name == kind.base_folder and data.is_dir():
        return [data.parent]
    return [data] if (data / kind.base_folder).is_dir() else []


def _read_cifar(kind: type[CIFAR10], root: Path, limit_train: int | None, seed: int) -> DecodedSet:
    folder = root / kind.base_folder
    try:
        train, val = (kind(root, train=train, download=False) for train in (True, False))
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder}: cannot be read as {kind.__name__} ({reason})") from error
    kept = slice(None)
    if limit_train is not None:
        kept = balanced_subset(train.targets, limit_train, seed)
    splits = (
        DecodedSplit(torch.from_numpy(split.data)[rows], torch.tensor(split.targets)[rows])
        for split, rows in ((train, kept), (val, slice(None)))
    )
    return DecodedSet(train.classes, *splits, f"{kind.__name__} {folder}")


def _read_file(path: str) -> np.ndarray:
    try:
        return np.fromfile(path, np.uint8)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _decoded(split: FileSplit, read: Callable[[str], np.ndarray]) -> DecodedSplit:
    first = _decode(split.paths[0], read)
    images = torch.empty(len(split), *first.shape, dtype=torch.uint8)
    for into, path in zip(images, split.paths, strict=True):
        image = _decode(path, read)
        if image.shape != first.shape:
            raise UserError(_another_size(path, image, first))
        into.copy_(image)
    return DecodedSplit(images, torch.tensor(split.labels))


def _decode(path: str, read: Callable[[str], np.ndarray]) -> Tensor:
    """The image at `path`, uint8 [H, W, 3]."""
    content = read(path)
    # Three to four times as fast as PIL on small JPEG files, and bit for bit the same. What it
    # does not take (BMP, TIFF), or not as 8 bits, goes to PIL, and so does what is damaged, since
    # PIL says better what is wrong.
    try:
        image = decode_image(torch.from_numpy(content), ImageReadMode.RGB)
        if image.dtype == torch.uint8 and image.ndim == 3:
            return image.permute(1, 2, 0)
    except RuntimeError:
        pass
    try:
        with Image.open(BytesIO(content)) as file:
            return torch.from_numpy(np.array(file.convert("RGB")))
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image that PIL can read") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not an image that PIL can read ({error})") from error


def _another_size(path: str, image: Tensor, first: Tensor) -> str:
    (height, width, _), (first_height, first_width, _) = image.shape, first.shape
    return (
        f"{path}: is {width} x {height} pixels, the first image {first_width} x {first_height}; "
        "taken are images of one size, whichever it is"
    )
