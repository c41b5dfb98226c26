"""CIFAR-10 and CIFAR-100 in their own format, as ``torchvision.datasets`` downloads them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from sprout_fast.data.listing import READERS, ArraySplit, Listing
from sprout_fast.data.names import printable
from sprout_fast.data.readers.tar import unpacked
from sprout_fast.data.regular import check_regular
from sprout_fast.errors import UserError

_FOLDERS = {"CIFAR10": "cifar-10-batches-py", "CIFAR100": "cifar-100-python"}


@READERS.register("cifar")
def scan_cifar(data: Path) -> Listing | None:
    """Read the data set, or return None if there is none at ``data``.

    ``data`` is ``cifar-10-batches-py`` or ``cifar-100-python``, the folder that holds one of them,
    or the archive that torchvision downloads, compressed or not.

    Raises:
        UserError: both are there, or a file is missing or fails its checksum.
    """
    if os.path.isfile(data):  # False, where Path.is_file() raises, for names that are too long
        data = unpacked(data, [*_FOLDERS.values()]) or data
    found = [(name, root) for name, folder in _FOLDERS.items() for root in _roots(folder, data)]
    if not found:
        return None
    if len(found) > 1:
        names = " and ".join(_FOLDERS.values())
        raise UserError(f"{printable(data)}: holds both {names}; pass one of the two folders")
    from torchvision import datasets  # needed for this format alone

    name, root = found[0]
    for file in (root / _FOLDERS[name]).iterdir():
        check_regular(file)  # torchvision would wait for a FIFO
    kind, folder = getattr(datasets, name), printable(root / _FOLDERS[name])
    try:
        train, val = (kind(root, train=train, download=False) for train in (True, False))
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder}: cannot be read as {name} ({reason})") from error
    train_split, val_split = (
        ArraySplit(np.array(split.targets), split.data, folder) for split in (train, val)
    )
    return Listing(train.classes, train_split, val_split, f"{name} {folder}")


def _roots(folder: str, data: Path) -> list[Path]:
    if data.name == folder and os.path.isdir(data):
        return [data.parent]
    return [data] if os.path.isdir(data / folder) else []
