"""A part of an image folder, as a folder of links: for trainings on fewer images."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from sprout_fast.data import scan
from sprout_fast.data.decoded import balanced_subset
from sprout_fast.data.listing import FileSplit
from sprout_fast.errors import UserError


def linked_part(data: Path, folder: Path, *, train: int, val: int, seed: int) -> Path:
    """Make ``folder`` with links to some images of ``data``, evenly over its classes.

    Args:
        data: an image folder in ImageNet's layout.
        folder: left as it is where it is there already.
        train, val: how many images, at least one of each class.
        seed: of the choice.

    Raises:
        UserError: not an image folder.
    """
    if folder.exists():
        return folder
    listing = scan(data)
    if not isinstance(listing.train, FileSplit):
        raise UserError(f"--imagenet {data}: takes a folder of image files below --scale 1")
    beside = folder.with_name(folder.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)  # of a run that was stopped
    for name, split, count in (("train", listing.train, train), ("val", listing.val, val)):
        for index in balanced_subset(split.labels, max(count, len(listing.classes)), seed):
            path = Path(split.paths[index]).resolve()
            link = beside / name / listing.classes[split.labels[index]] / f"{index}{path.suffix}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    os.replace(beside, folder)
    return folder
