"""The paper's two data sets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSet:
    """Sizes of a data set of the paper, and how it trains on it."""

    name: str
    train_images: int
    test_images: int
    epochs: int
    batch_size: int
    fewest_images: int  # to train on, at any scale


CIFAR = DataSet("CIFAR-10", 50_000, 10_000, 200, 128, 64)
IMAGENET = DataSet("ImageNet", 1_281_167, 50_000, 90, 64, 64)
