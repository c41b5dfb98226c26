"""Small images read into memory: CIFAR-10 and -100, image folders, tars of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100

from sprout_fast.data.decode import decode_images
from sprout_fast.data.readers.folder import scan_folder
from sprout_fast.data.readers.listing import FileSplit
from sprout_fast.data.readers.tar import scan_image_tar
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
    # Together, since all are to be of one size.
    images = torch.from_numpy(decode_images(kept.paths + listing.val.paths, read))
    train_images, val_images = images.split([len(kept), len(listing.val)])
    train = DecodedSplit(train_images, torch.tensor(kept.labels))
    val = DecodedSplit(val_images, torch.tensor(listing.val.labels))
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
