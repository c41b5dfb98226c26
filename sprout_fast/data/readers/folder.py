"""Image folders in ImageNet's layout: ``D/train/<class>/...`` and ``D/val/<class>/...``.

``D/test`` serves for a missing ``D/val``. The classes are the folder names, sorted; which files are
images, and in which order they come, is torchvision's rule (`torchvision.datasets.folder`), so
labels agree with ``ImageFolder``'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from sprout_fast.data.readers.listing import FileSplit, Listing, check_val_classes
from sprout_fast.errors import UserError

EXTENSIONS = IMG_EXTENSIONS


SPLITS = ("train", "val", "test")
Files = Mapping[str, list[str]]  # class: its images


def scan_folder(data: Path) -> Listing:
    """List the images under `data`.

    A folder that holds class folders directly, without ``train`` and ``val``, serves as both.

    Raises:
        UserError: the folder is missing, empty or unreadable, has one of ``train`` and ``val`` but
            not the other, a training class has no images, or val has a class that train lacks.
    """
    data = Path(data)
    try:
        if not data.is_dir():
            raise UserError(f"{data}: no such folder")
        folders = [entry.name for entry in data.iterdir() if entry.is_dir()]
        return arrange(data, folders, _files, f"image folder {data}")
    except OSError as error:  # no permission, a broken mount
        raise UserError(f"{error.filename or data}: cannot be read ({error.strerror})") from error


def arrange(
    data: Path, folders: Collection[str], files_in: Callable[[Path], Files], layout: str
) -> Listing:
    """Make a listing by the rules of `scan_folder`, of a folder or of what is laid out like one.

    Args:
        data: the whole, for messages too.
        folders: names of the folders in `data`.
        files_in: the images of each class folder in `data` or in one of its `folders`.
        layout: what it is, where it has ``train`` and ``val``.
    """
    has_train = "train" in folders
    val_name = next((name for name in ("val", "test") if name in folders), None)
    if has_train != bool(val_name):
        has, lacks = ("train/", "val/ or test/") if has_train else (f"{val_name}/", "train/")
        raise UserError(f"{data}: has {has} but no {lacks}; both are needed, or neither")
    train_root = data / "train" if has_train else data
    files = files_in(train_root)
    classes = sorted(files)
    train = _split(files, classes)
    empty = [name for name in classes if not files[name]]
    if len(train) == 0:
        raise UserError(f"{train_root}: no images; {_taken()}")
    if empty:
        raise UserError(f"{train_root / empty[0]}: class without images; {_taken()}")
    if not has_train:
        return Listing(classes, train, train, f"{data} serves both training and validation")

    val_files = files_in(data / val_name)
    check_val_classes(Counter(val_files.keys()), Counter(classes), str(data))
    val = _split(val_files, classes)
    if len(val) == 0:
        raise UserError(f"{data / val_name}: no images; {_taken()}")
    return Listing(classes, train, val, layout)


def _files(root: Path) -> Files:
    try:
        classes, label_of = find_classes(root)
    except FileNotFoundError as error:
        raise UserError(f"{root}: no class folders; taken are {root}/<class>/<image>") from error
    files: dict[str, list[str]] = {name: [] for name in classes}
    for path, label in make_dataset(root, label_of, EXTENSIONS, allow_empty=True):
        files[classes[label]].append(path)
    return files


def _split(files: Files, classes: list[str]) -> FileSplit:
    samples = [(path, label) for label, name in enumerate(classes) for path in files.get(name, ())]
    return FileSplit([path for path, _ in samples], [label for _, label in samples])


def _taken() -> str:
    return "taken are files ending in " + ", ".join(EXTENSIONS)
