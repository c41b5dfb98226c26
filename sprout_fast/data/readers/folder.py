"""Image folders in ImageNet's layout: ``D/train/<class>/...`` and ``D/val/<class>/...``.

``D/test`` is used if there is no ``D/val``. Classes are the folder names, sorted; which files are
images, and their order, follow ``torchvision.datasets.ImageFolder``, so labels agree with it,
except that hidden names (:func:`sprout_fast.data.names.is_hidden`) are skipped. Links to files and
folders are followed. A folder that is reached twice within a class, as where a link leads back up,
is refused: its images would count more than once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from sprout_fast.data.listing import (
    READERS,
    FileSplit,
    Listing,
    Split,
    Stamp,
    check_val_classes,
    stamp,
)
from sprout_fast.data.names import IMAGE_EXTENSIONS, Names, is_hidden, is_image, printable
from sprout_fast.data.regular import check_regular
from sprout_fast.errors import UserError

SPLITS = ("train", "val", "test")
_EXPECTED = "expected files that end in " + ", ".join(IMAGE_EXTENSIONS)
Files = Mapping[str, Names]  # of images of images, by class


@READERS.register("folder")
def scan_folder(data: Path) -> Listing | None:
    """List the images under ``data``, or return None if it is not a folder.

    A folder that holds class folders directly, without ``train`` and ``val``, serves as both.

    Raises:
        UserError: the folder is empty or unreadable, has only one of ``train`` and ``val``, a
            training class has no images, or val has a class that train lacks.
        OSError: an image is not a regular file, or a folder is reached twice within a class.
    """
    if not data.is_dir():
        return None
    sources = {str(data): stamp(data)}
    folders = [entry.name for entry in data.iterdir() if entry.is_dir()]

    def files_in(root: Path) -> Files:
        sources[str(root)] = stamp(root)
        return _files(data, root, sources)

    def split(names: Names, labels: np.ndarray) -> FileSplit:
        return FileSplit(labels, str(data), names, np.arange(len(names)))

    listing = arrange(data, folders, files_in, split, f"image folder {printable(data)}")
    return replace(listing, sources=sources)


def arrange(
    data: Path,
    folders: Collection[str],
    files_in: Callable[[Path], Files],
    make_split: Callable[[Names, np.ndarray], Split],
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
        if not any(map(len, files.values())):
            raise UserError(f"{printable(root)}: no images; {_EXPECTED}")
        labels = [np.full(len(files.get(name, ())), i) for i, name in enumerate(classes)]
        names = Names.join([files[name] for name in classes if name in files])
        return make_split(names, np.concatenate(labels))

    train = split(train_root, files)
    for name in classes:
        if not len(files[name]):
            raise UserError(f"{printable(train_root / name)}: class without images; {_EXPECTED}")
    if val_name is None:
        layout = f"{printable(data)} serves as both training and validation set"
        return Listing(classes, train, train, layout)
    val_files = files_in(data / val_name)
    check_val_classes(val_files, classes, data)
    return Listing(classes, train, split(data / val_name, val_files), layout)


def _files(data: Path, root: Path, sources: dict[str, Stamp]) -> Files:
    classes = sorted(
        entry.name for entry in os.scandir(root) if entry.is_dir() and not is_hidden(entry.name)
    )
    if not classes:
        raise UserError(f"{printable(root)}: no class folders; expected <class>/<image> in it")
    return {name: Names.pack(_images(data, str(root / name), sources)) for name in classes}


def _images(data: Path, folder: str, sources: dict[str, Stamp]) -> Iterator[str]:
    """Yield the images of a class, relative to ``data``, and enter its folders in ``sources``."""
    found: list[tuple[str, list[str]]] = []
    reached: dict[tuple[int, int], str] = {}
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        status = os.stat(here)
        first = reached.setdefault((status.st_dev, status.st_ino), here)
        if first != here:
            raise UserError(
                f"{printable(here)}: is the folder {printable(first)} once more; expected each "
                "folder once within a class"
            )
        sources[here] = stamp(here)
        images = []
        with os.scandir(here) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                if entry.is_dir():
                    waiting.append(entry.path)
                elif is_image(entry.name):
                    check_regular(entry)
                    images.append(entry.name)
        found.append((here, sorted(images)))
    for here, images in sorted(found):
        prefix = os.path.relpath(here, data)
        yield from (os.path.join(prefix, name) for name in images)
