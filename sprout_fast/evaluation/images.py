"""A data set's validation images as tensors, or as many of them as are wanted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sprout_fast.data import build_loaders, scan
from sprout_fast.data.readers.decoded import read_decoded
from sprout_fast.training.final_check import Spread


@dataclass(frozen=True)
class Images:
    """Validation images.

    Attributes:
        images: uint8 [N,3,H,W]; labels: int64 [N].
        classes: names, K of them.
        available: how many the data set has.
        description: one line.
    """

    images: Tensor
    labels: Tensor
    classes: list[str]
    available: int
    description: str


def read_images(
    data: Path,
    *,
    loader: Literal["memory", "dali", "torch"],
    image_size: int,
    limit: int | None = None,
    batch_size: int = 64,
    workers: int = 2,
) -> Images:
    """Read the validation images of a data set.

    Args:
        data: what --data of the training tools takes.
        loader: "memory" for small images of one size, taken as they are; "dali" or "torch" for
            files, which resize and crop to ``image_size``.
        limit: take so many, spread evenly over the set, which is sorted by class; None: all.

    Raises:
        UserError: as the loaders do.
    """
    if loader == "memory":
        found = read_decoded(Path(data), limit_train=1)
        total, classes, layout = len(found.val), found.classes, found.layout
        batches = [(found.val.images.permute(0, 3, 1, 2), found.val.labels)]
    else:
        listing = scan(Path(data))
        loaders = build_loaders(
            Path(data),
            loader=loader,
            batch_size=min(batch_size, len(listing.train)),
            image_size=image_size,
            device=torch.device("cpu"),
            seed=0,
            workers=workers,
        )
        total, classes, layout = loaders.val.num_images, loaders.classes, listing.layout
        batches = loaders.val
    count = total if limit is None else min(limit, total)
    # Clones: a loader may use its memory again.
    parts = [(images.clone(), labels.clone()) for images, labels in Spread(batches, total, count)]
    images, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    chosen = "all" if count == total else f"{count:,} of"
    return Images(
        images,
        labels,
        classes,
        total,
        f"{layout}: {chosen} {total:,} validation images of {len(classes)} classes",
    )
