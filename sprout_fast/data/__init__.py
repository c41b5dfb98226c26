"""Image data sets and their loaders.

:func:`build_loaders` makes the training and the validation loader of a data set, whose batches are
``(images, labels)``: images uint8 [B, 3, H, W], a channels-last view of NHWC memory, never
normalized; labels int64 [B]. :func:`read_images` reads validation images as tensors. Importing
this package imports neither torch nor DALI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sprout_fast._lazy import attach as _attach

if TYPE_CHECKING:
    from sprout_fast.data.decode import has_dali
    from sprout_fast.data.listing import READERS, Listing, Split, scan
    from sprout_fast.data.loaders.base import (
        LOADERS,
        EpochLoader,
        Loader,
        LoaderName,
        Loaders,
        build_loaders,
        default_loader,
    )
    from sprout_fast.data.sample_set import make_sample_set
    from sprout_fast.data.subsets import SpacedBatches, balanced_subset, spaced_subset
    from sprout_fast.data.validation import Images, read_images
else:
    __getattr__, __dir__ = _attach(
        __name__,
        {
            "decode": ["has_dali"],
            "listing": ["READERS", "Listing", "Split", "scan"],
            "loaders.base": [
                "LOADERS",
                "EpochLoader",
                "Loader",
                "LoaderName",
                "Loaders",
                "build_loaders",
                "default_loader",
            ],
            "sample_set": ["make_sample_set"],
            "subsets": ["SpacedBatches", "balanced_subset", "spaced_subset"],
            "validation": ["Images", "read_images"],
        },
    )

__all__ = [
    "LOADERS",
    "READERS",
    "EpochLoader",
    "Images",
    "Listing",
    "Loader",
    "LoaderName",
    "Loaders",
    "SpacedBatches",
    "Split",
    "balanced_subset",
    "build_loaders",
    "default_loader",
    "has_dali",
    "make_sample_set",
    "read_images",
    "scan",
    "spaced_subset",
]
