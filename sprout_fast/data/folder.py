"""Image folders in ImageNet's layout: ``D/train/<class>/...`` and ``D/val/<class>/...``.

The classes are the folder names, sorted; which files are images, and in which order they come, is
torchvision's rule (`torchvision.datasets.folder`), so labels agree with ``ImageFolder``'s.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from sprout_fast.data.listing import FileSplit, Listing, check_val_classes
from sprout_fast.errors import UserError

EXTENSIONS = IMG_EXTENSIONS


def scan_folder(data: Path) -> Listing:
    """List the images under `data`.

    A folder that holds class folders directly, without ``train`` and ``val``, serves as both.

    Raises:
        UserError: the folder is missing, empty or unreadable, has one of ``train`` and ``val`` but
            not the other, a training class has no images, or val has a class that train lacks.
    """
    data = Path(data)
    try:
        return _scan(data)
    except OSError as error:  # no permission, a broken mount
        raise UserError(f"{error.filename or data}: cannot be read ({error.strerror})") from error


def _scan(data: Path) -> Listing:
    if not data.is_dir():
        raise UserError(f"{data}: no such folder")
    has_train, has_val = (data / "train").is_dir(), (data / "val").is_dir()
    if has_train != has_val:
        has, lacks = ("train", "val") if has_train else ("val", "train")
        raise UserError(f"{data}: has {has}/ but no {lacks}/; both are needed, or neither")
    train_root = data / "train" if has_train else data
    classes = _classes(train_root)
    train = _split(train_root, classes)
    counts = Counter(train.labels)
    empty = [name for label, name in enumerate(classes) if not counts[label]]
    if len(train) == 0:
        raise UserError(f"{train_root}: no images; {_taken()}")
    if empty:
        raise UserError(f"{train_root / empty[0]}: class without images; {_taken()}")
    if not has_val:
        return Listing(classes, train, train, f"{data} serves both training and validation")

    val_root = data / "val"
    val_names = Counter(_classes(val_root))
    check_val_classes(val_names, Counter(classes), str(data))
    val = _split(val_root, classes)
    if len(val) == 0:
        raise UserError(f"{val_root}: no images; {_taken()}")
    return Listing(classes, train, val, f"image folder {data}")


def _classes(root: Path) -> list[str]:
    try:
        classes, _ = find_classes(root)
    except FileNotFoundError as error:
        raise UserError(f"{root}: no class folders; taken are {root}/<class>/<image>") from error
    return classes


def _split(root: Path, classes: list[str]) -> FileSplit:
    label_of = {name: label for label, name in enumerate(classes)}
    samples = make_dataset(root, label_of, EXTENSIONS, allow_empty=True)
    return FileSplit([path for path, _ in samples], [label for _, label in samples])


def _taken() -> str:
    return "taken are files ending in " + ", ".join(EXTENSIONS)
