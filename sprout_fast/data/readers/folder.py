"""Image folders in ImageNet's layout: ``D/train/<class>/...`` and ``D/val/<class>/...``.

``D/test`` is used if there is no ``D/val``. Classes are the folder names, sorted; which files are
images, and their order, follow ``torchvision.datasets.ImageFolder``, so labels agree with it,
except that hidden names (:func:`sprout_fast.data.names.is_hidden`) are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np

from sprout_fast.data.listing import (
    READERS,
    FileSplit,
    Listing,
    Split,
    check_val_classes,
    encode_names,
)
from sprout_fast.data.names import IMAGE_EXTENSIONS, is_hidden, is_image, printable
from sprout_fast.errors import UserError

SPLITS = ("train", "val", "test")
_EXPECTED = "expected files that end in " + ", ".join(IMAGE_EXTENSIONS)
Files = Mapping[str, list[str]]  # names of images, by class


@READERS.register("folder")
def scan_folder(data: Path) -> Listing | None:
    """List the images under ``data``, or return None if it is not a folder.

    A folder that holds class folders directly, without ``train`` and ``val``, serves as both.

    Raises:
        UserError: the folder is empty or unreadable, has only one of ``train`` and ``val``, a
            training class has no images, or val has a class that train lacks.
    """
    if not data.is_dir():
        return None
    folders = [entry.name for entry in data.iterdir() if entry.is_dir()]

    def split(paths: list[str], labels: np.ndarray) -> FileSplit:
        return FileSplit(labels, encode_names(paths))

    return arrange(data, folders, _files, split, f"image folder {printable(data)}")


def arrange(
    data: Path,
    folders: Collection[str],
    files_in: Callable[[Path], Files],
    make_split: Callable[[list[str], np.ndarray], Split],
    layout: str,
) -> Listing:
    """Make a listing by the rules of :func:`scan_folder`, of a folder or a tar of one.

    ``files_in`` returns the images of each class folder in ``data`` or in one of its ``folders``,
    ``make_split`` makes a split of names and labels, and ``layout`` describes a data set that has
    ``train`` and ``val``.
    """
    has_train = "train" in folders
    val_name = next((name for name in ("val", "test") if name in folders), None)
    if has_train != bool(val_name):
        has, lacks = ("train/", "val/ or test/") if has_train else (f"{val_name}/", "train/")
        raise UserError(f"{printable(data)}: has {has} but no {lacks}; expected both or neither")
    train_root = data / "train" if has_train else data
    files = files_in(train_root)
    classes = sorted(files)

    def split(root: Path, files: Files) -> Split:
        if not any(files.values()):
            raise UserError(f"{printable(root)}: no images; {_EXPECTED}")
        labels = [np.full(len(files.get(name, ())), i) for i, name in enumerate(classes)]
        names = [file for name in classes for file in files.get(name, ())]
        return make_split(names, np.concatenate(labels))

    train = split(train_root, files)
    for name in classes:
        if not files[name]:
            raise UserError(f"{printable(train_root / name)}: class without images; {_EXPECTED}")
    if val_name is None:
        layout = f"{printable(data)} serves as both training and validation set"
        return Listing(classes, train, train, layout)
    val_files = files_in(data / val_name)
    check_val_classes(val_files, classes, data)
    return Listing(classes, train, split(data / val_name, val_files), layout)


def _files(root: Path) -> Files:
    classes = sorted(
        entry.name for entry in os.scandir(root) if entry.is_dir() and not is_hidden(entry.name)
    )
    if not classes:
        raise UserError(f"{printable(root)}: no class folders; expected <class>/<image> in it")
    return {name: _images(os.path.join(root, name)) for name in classes}


def _images(folder: str) -> list[str]:
    def fail(error: OSError) -> None:  # os.walk would skip the folder
        raise error

    found = []
    for root, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = [name for name in folders if not is_hidden(name)]
        images = (name for name in files if is_image(name) and not is_hidden(name))
        found.append((root, sorted(images)))
    return [os.path.join(root, name) for root, names in sorted(found) for name in names]
