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
    from sprout_fast.data.decode import has_dali as has_dali
    from sprout_fast.data.listing import READERS as READERS
    from sprout_fast.data.listing import Listing as Listing
    from sprout_fast.data.listing import Split as Split
    from sprout_fast.data.listing import scan as scan
    from sprout_fast.data.loaders.base import LOADERS as LOADERS
    from sprout_fast.data.loaders.base import EpochLoader as EpochLoader
    from sprout_fast.data.loaders.base import Loader as Loader
    from sprout_fast.data.loaders.base import LoaderName as LoaderName
    from sprout_fast.data.loaders.base import Loaders as Loaders
    from sprout_fast.data.loaders.base import build_loaders as build_loaders
    from sprout_fast.data.loaders.base import default_loader as default_loader
    from sprout_fast.data.sample_set import make_sample_set as make_sample_set
    from sprout_fast.data.subsets import SpacedBatches as SpacedBatches
    from sprout_fast.data.subsets import balanced_subset as balanced_subset
    from sprout_fast.data.subsets import spaced_subset as spaced_subset
    from sprout_fast.data.validation import Images as Images
    from sprout_fast.data.validation import read_images as read_images
else:
    __getattr__, __dir__, __all__ = _attach(
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
