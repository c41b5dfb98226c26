"""Validation images of a data set as tensors, all or a subset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sprout_fast.data.decode import decode
from sprout_fast.data.loaders.base import LOADERS, LoaderName
from sprout_fast.data.names import printable
from sprout_fast.data.preprocessing import Preprocessing, preprocessed
from sprout_fast.data.scanning import scan
from sprout_fast.data.subsets import balanced_subset
from sprout_fast.errors import UserError


@dataclass(frozen=True)
class Images:
    """Validation images."""

    images: Tensor  #: uint8 [N, 3, H, W].
    labels: Tensor  #: int64 [N], in [0, K).
    classes: list[str]  #: Names of the K classes.
    available: int  #: Number of validation images in the data set.
    description: str  #: One line for the log.


def read_image(path: str | Path, image_size: int) -> Tensor:
    """Read one image as input for a model of images in [0, 1].

    It is resized and cropped as validation images are; one that has ``image_size`` x ``image_size``
    pixels is used as it is.

    Args:
        path: an image file.
        image_size: side of the result in pixels.

    Returns:
        float32 [1, 3, image_size, image_size] in [0, 1].

    Raises:
        UserError: the file cannot be read or decoded.

    >>> import tempfile
    >>> from PIL import Image
    >>> path = tempfile.mkdtemp() + "/white.png"
    >>> Image.new("RGB", (400, 300), "white").save(path)
    >>> image = read_image(path, 224)
    >>> image.shape, image.min().item()
    (torch.Size([1, 3, 224, 224]), 1.0)
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{printable(path)}: cannot be read ({error.strerror})") from error
    image = torch.tensor(decode(content, str(path)).pixels).permute(2, 0, 1)
    if image.shape[1:] != (image_size, image_size):
        image = Preprocessing(image_size)(image)
    return image[None] / 255


def read_images(
    data: str | Path,
    *,
    loader: LoaderName,
    image_size: int | None = None,
    limit: int | None = None,
    batch_size: int = 64,
    workers: int = 2,
    preprocessing: Preprocessing | None = None,
) -> Images:
    """Read validation images; training images are listed, not decoded.

    Args:
        data: what :func:`~sprout_fast.data.scan` accepts.
        loader: ``"memory"`` for small images of one size, used as they are; ``"dali"`` or
            ``"torch"`` to resize and crop files to ``image_size``.
        image_size: side of the square images in pixels; ignored by loaders that do not resize.
        limit: images to read, a :func:`~sprout_fast.data.subsets.balanced_subset` of seed 0; all by
            default.
        batch_size: images to decode at a time.
        workers: decoding threads or processes.
        preprocessing: resizes and crops the images instead of the loader.

    Raises:
        UserError: the data set is missing or inconsistent, an image cannot be decoded, or the
            loader is unknown or not installed.
    """
    kind, listing = LOADERS.look_up(loader), scan(data)
    split, total = listing.val, len(listing.val)
    if limit is not None and limit < total:
        split = split.subset(balanced_subset(split.labels, limit, seed=0))
    if preprocessing is not None:
        images = preprocessed(len(split), split.read, split.name, preprocessing, workers)
        labels = torch.from_numpy(split.labels)
    else:
        side = image_size if kind.resizes else None
        options = {"batch_size": batch_size, "image_size": side, "workers": workers}
        batches = kind(split, train=False, device=torch.device("cpu"), seed=0, **options)
        images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    count = f"{len(split):,} of {total:,}" if len(split) < total else f"all {total:,}"
    description = f"{listing.layout}: {count} validation images of {len(listing.classes)} classes"
    if preprocessing is not None:
        description += f"; {preprocessing}"
    return Images(images, labels, listing.classes, total, description)
