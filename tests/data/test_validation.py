"""Validation images as tensors: all or a subset, and nothing else is decoded."""

import numpy as np
import pytest
import torch
from helpers.image_files import numbers, write_folder

from sprout_fast.data import balanced_subset, has_dali, read_images

LOADERS = ["torch", "memory"] + ["dali"] * has_dali()


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("limit", [None, 4, 9, 20])
def test_subset_of_the_validation_images(tmp_path, loader, limit):
    """Training images, and validation images that are not chosen, may be unreadable."""
    write_folder(tmp_path, {"train": {"a": 2, "b": 2}, "val": {"a": 5, "b": 4}})
    labels = np.array([0] * 5 + [1] * 4)
    chosen = balanced_subset(labels, limit or 9, seed=0).tolist()
    for path in tmp_path.glob("train/*/*.jpg"):
        path.write_bytes(b"no image")
    for number, path in enumerate(sorted(tmp_path.glob("val/*/*.jpg"))):
        if number not in chosen:
            path.write_bytes(b"no image")
    size = 24
    found = read_images(
        tmp_path, loader=loader, image_size=size, limit=limit, batch_size=3, workers=1
    )
    assert numbers(found.images) == chosen
    assert found.labels.tolist() == [int(number >= 5) for number in chosen]
    assert found.images.shape[2:] == ((32, 40) if loader == "memory" else (24, 24))
    assert found.images.dtype == torch.uint8 and found.labels.dtype == torch.int64
    assert found.available == 9 and found.classes == ["a", "b"]
    count = "all 9" if len(chosen) == 9 else f"{len(chosen)} of 9"
    assert f"{count} validation images of 2 classes" in found.description
