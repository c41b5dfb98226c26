"""Subsets: balanced over the classes, or at equal distances."""

from collections import Counter

import numpy as np
import pytest
import torch

from sprout_fast.data.subsets import SpacedBatches, balanced_subset, spaced_subset


def test_balanced_subset():
    labels = np.random.default_rng(0).permutation([0] * 50 + [1] * 50 + [2] * 7)
    subsets = {count: balanced_subset(labels, count, seed=4) for count in (2, 3, 20, 22, 70, 200)}
    for count, subset in subsets.items():
        assert subset.tolist() == sorted(set(subset.tolist()))
        assert len(subset) == min(count, 107)
    classes = {count: Counter(labels[subset].tolist()) for count, subset in subsets.items()}
    assert classes[3] == {0: 1, 1: 1, 2: 1}
    assert sorted(classes[20].values()) == [6, 7, 7]
    assert classes[22][2] == 7 and sorted(classes[22].values()) == [7, 7, 8]
    assert classes[70][2] == 7 and abs(classes[70][0] - classes[70][1]) == 1
    for small, large in ((2, 3), (3, 20), (20, 22), (22, 70)):
        assert set(subsets[small]) < set(subsets[large])
    again, other = (balanced_subset(labels, 20, seed=seed).tolist() for seed in (4, 5))
    assert again == subsets[20].tolist() != other


@pytest.mark.parametrize(("total", "count"), [(10, 3), (7, 7), (7, 20), (1000, 1), (11, 10)])
def test_spaced_subset_has_equal_distances(total, count):
    chosen = spaced_subset(total, count)
    assert len(chosen) == min(total, count)
    gaps = np.diff(chosen)
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("batch_size", [1, 4, 11])
def test_spaced_batches_are_the_spaced_subset(batch_size):
    images = torch.arange(11)
    batches = list(zip(images.split(batch_size), (images % 3).split(batch_size), strict=True))
    kept = list(SpacedBatches(batches, 11, 5))
    assert torch.cat([one for one, _ in kept]).tolist() == spaced_subset(11, 5).tolist()
    assert torch.cat([labels for _, labels in kept]).tolist() == [
        number % 3 for number in spaced_subset(11, 5)
    ]
    assert all(len(one) for one, _ in kept)
