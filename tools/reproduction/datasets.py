"""The paper's two data sets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSet:
    """A data set and the paper's training on it.

    Args:
        name: name in tables.
        classes: number of classes.
        train_images, test_images: number of images.
        epochs, batch_size: of a training.
        fewest_images: minimum number of training images at any scale.
    """

    name: str
    classes: int
    train_images: int
    test_images: int
    epochs: int
    batch_size: int
    fewest_images: int


CIFAR = DataSet("CIFAR-10", 10, 50_000, 10_000, 200, 128, 64)
IMAGENET = DataSet("ImageNet", 1000, 1_281_167, 50_000, 90, 64, 64)
