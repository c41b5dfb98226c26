"""What the loaders do to an image: one definition, so that DALI and torchvision mean the same.

Training crops and flips like torchvision's ``RandomResizedCrop`` and ``RandomHorizontalFlip``;
validation resizes the short side and crops the centre, as the usual ImageNet evaluation does.
Small images in memory keep their size: training crops them from a border of zeros, like
``RandomCrop(padding=4)``, and validation takes them as they are, as is usual for CIFAR-10.
Normalisation, noise and Mixup are not the loader's: they happen once, in ``gaussian_mixup``.
"""

from __future__ import annotations

CROP_SCALE = (0.08, 1.0)  # share of the image's area that a training crop covers
CROP_RATIO = (3 / 4, 4 / 3)  # its width over its height
FLIP_PROBABILITY = 0.5
PADDING = 4  # pixels of zeros on each side of a small image


def validation_short_side(image_size: int) -> int:
    """Length in pixels that validation resizes an image's short side to, before the centre crop.

    >>> validation_short_side(224), validation_short_side(64)
    (256, 73)
    """
    return round(image_size * 256 / 224)
