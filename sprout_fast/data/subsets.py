"""Subsets of a data set: as many images as wanted, chosen fairly and reproducibly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor


def spread_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return an order of N images whose every part spreads over the classes.

    Each class contributes its first image, in an order drawn for it, before any contributes its
    second.

    Args:
        labels: int64 [N].
        seed: seed of the order.

    Returns:
        Indices int64 [N].

    >>> labels = np.array([0, 0, 0, 1, 1, 1, 2])
    >>> sorted(labels[spread_order(labels, seed=0)[:3]].tolist())
    [0, 1, 2]
    """
    random = np.random.default_rng([seed, 2])
    order = random.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # drawn order within a class
    _, starts, class_of, counts = np.unique(
        labels[order], return_index=True, return_inverse=True, return_counts=True
    )
    turn = np.arange(len(order)) - starts[class_of]
    first = random.permutation(len(counts))  # which classes contribute one more than the others
    return order[np.lexsort((first[class_of], turn))]


def balanced_subset(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Choose ``count`` of N images at random, equally many per class where there are enough.

    They are the first of :func:`spread_order`, so a smaller subset is part of a larger one of the
    same seed.

    Args:
        labels: int64 [N].
        count: number of images to choose; all N if it is larger.
        seed: seed of the choice.

    Returns:
        Indices int64 [count], ascending.

    >>> labels = np.array([0] * 6 + [1] * 6 + [2])
    >>> labels[balanced_subset(labels, 7, seed=0)]
    array([0, 0, 0, 1, 1, 1, 2])
    """
    return np.sort(spread_order(np.asarray(labels), seed)[:count])


def spaced_subset(total: int, count: int) -> np.ndarray:
    """Choose ``count`` of ``total`` images at equal distances, without randomness.

    Validation sets are sorted by class, so every class is represented in proportion. Returns
    ascending indices, int64 [count]; all of them if ``count`` is larger than ``total``.

    >>> spaced_subset(10, 3)
    array([3, 6, 9])
    """
    index, count = np.arange(total), min(total, count)
    return index[(index + 1) * count // max(total, 1) > index * count // max(total, 1)]


class SpacedBatches:
    """The ``count`` images of :func:`spaced_subset` from a loader's batches of ``total`` images.

    The batches, of images and labels, are in validation order.
    """

    def __init__(self, loader: Iterable[tuple[Tensor, Tensor]], total: int, count: int) -> None:
        self._loader = loader
        self._kept = torch.zeros(total, dtype=torch.bool)
        self._kept[torch.from_numpy(spaced_subset(total, count))] = True

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        seen = 0
        for images, labels in self._loader:
            rows = self._kept[seen : seen + len(labels)].nonzero().flatten().to(labels.device)
            seen += len(labels)
            if len(rows):
                yield images[rows], labels[rows]
