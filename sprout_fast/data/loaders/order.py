"""In which order a loader of ours gives its images; DALI has an order of its own."""

from __future__ import annotations

import numpy as np


def shard_order(
    num_images: int, *, train: bool, seed: int, epoch: int, shard_id: int, num_shards: int
) -> np.ndarray:
    """The images of one rank in one epoch, in order: their indices, int64.

    In training all ranks share one fresh permutation an epoch, and each gets the same number of
    images; in validation each image comes once, in turn.

    >>> [shard_order(5, train=False, seed=0, epoch=0, shard_id=s, num_shards=2) for s in (0, 1)]
    [array([0, 2, 4]), array([1, 3])]
    """
    if not train:
        return np.arange(shard_id, num_images, num_shards)
    order = np.random.default_rng([seed, epoch]).permutation(num_images)
    return order[shard_id::num_shards][: num_images // num_shards]
