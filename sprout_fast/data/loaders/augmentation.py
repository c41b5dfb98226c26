"""Augmentation, from which every loader makes the same images.

Training crops and flips as torchvision's ``RandomResizedCrop`` and ``RandomHorizontalFlip`` do;
validation resizes the short side and crops the center, as is usual on ImageNet. Small images in
memory keep their size: training crops them out of a border of zeros, as ``RandomCrop(padding=4)``
does, and validation uses them unchanged, as is usual on CIFAR-10.

An epoch of repeated augmentation has *samples*: sample ``repeats * i + c`` is image i for the c-th
time. Without it, samples are images.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from sprout_fast.data.loaders.options import MAGNITUDES, AugmentationOptions

CROP_SCALE = (0.08, 1.0)  # fraction of the image's area that a training crop covers
CROP_RATIO = (3 / 4, 4 / 3)  # its width over its height
FLIP_PROBABILITY = 0.5
PADDING = 4  # pixels of zeros on each side of a small image
_ATTEMPTS = 10  # draws of a crop that fits, before the center is used, as in torchvision


class View(NamedTuple):
    """The part of an image that a batch shows; pairs are (vertical, horizontal), in pixels."""

    start: tuple[int, int]  # top left corner of the part of the image that is used
    shape: tuple[int, int]  # its height and width
    size: tuple[int, int]  # what it is resized to
    crop: tuple[int, int]  # top left corner of the final square crop in that
    flip: bool  # whether the result is mirrored left to right
    draw: int = 0  # seed of what an augmentation policy draws for the image


def training_view(height: int, width: int, image_size: int, random: np.random.Generator) -> View:
    """Draw a random crop and flip of an image of ``height`` x ``width`` pixels.

    >>> view = training_view(300, 400, 224, np.random.default_rng(0))
    >>> view.size, view.crop
    ((224, 224), (0, 0))
    """
    square, flip = (image_size, image_size), bool(random.random() < FLIP_PROBABILITY)
    for _ in range(_ATTEMPTS):
        area = height * width * random.uniform(*CROP_SCALE)
        ratio = math.exp(random.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = random.integers(height - h + 1), random.integers(width - w + 1)
            return View((int(top), int(left)), (h, w), square, (0, 0), flip)
    ratio = min(max(width / height, CROP_RATIO[0]), CROP_RATIO[1])
    h, w = min(height, round(width / ratio)), min(width, round(height * ratio))
    h, w = max(1, h), max(1, w)
    return View(((height - h) // 2, (width - w) // 2), (h, w), square, (0, 0), flip)


def validation_view(height: int, width: int, image_size: int, resize: int | None = None) -> View:
    """Return the center of an image whose short side is resized to ``resize`` pixels.

    By default that is 256/224 of ``image_size``. Sizes and places are those of torchvision's
    ``Resize``, which truncates the long side, and ``CenterCrop``, which rounds half to even.

    >>> validation_view(375, 500, 224)
    View(start=(0, 0), shape=(375, 500), size=(256, 341), crop=(16, 58), flip=False, draw=0)
    """
    short = resize or round(image_size * 256 / 224)
    h, w = (side * short // min(height, width) for side in (height, width))
    crop = (round((h - image_size) / 2), round((w - image_size) / 2))
    return View((0, 0), (height, width), (h, w), crop, False)


def repeated(order: np.ndarray, repeats: int) -> np.ndarray:
    """Return the samples of an epoch of repeated augmentation (Hoffer et al. 2020), int64 [N].

    The N images of ``order`` come ``repeats`` times in a row, so that ranks, which share an order
    by turns, get different copies; the epoch ends after N samples, as torchvision's does.

    >>> repeated(np.array([7, 3, 5]), 2)  # image 7 twice, then image 3 for the first time
    array([14, 15,  6])
    """
    images = order[: -(-len(order) // repeats)]
    return (images[:, None] * repeats + np.arange(repeats)).ravel()[: len(order)]


def draw_operations(options: AugmentationOptions, draw: int, count: int) -> np.ndarray:
    """Draw what a policy does with an image: int32 [operations, 3].

    A row is the number of the operation, below ``count``, its magnitude, below ``MAGNITUDES``, and
    1 if that is negative, for operations that have a direction.

    >>> draw_operations(AugmentationOptions(auto_augment="rand"), draw=0, count=14)[:, 1]
    array([9, 9], dtype=int32)
    """
    random, trivial = np.random.default_rng(draw), options.auto_augment == "trivial"
    ops, fixed = 1 if trivial else options.rand_ops, options.rand_magnitude
    magnitudes = random.integers(MAGNITUDES, size=ops) if trivial else np.full(ops, fixed)
    drawn = random.integers(count, size=ops), magnitudes, random.integers(2, size=ops)
    return np.stack(drawn, axis=1).astype(np.int32)
