"""TrivialAugment and RandAugment in a DALI pipeline, by DALI's own operations.

Which operations an image gets is an input of the pipeline: what DALI draws itself depends on the
batch and cannot be resumed.
"""

from __future__ import annotations

from typing import Any

from nvidia.dali.auto_aug.core import select, signed_bin
from nvidia.dali.auto_aug.rand_augment import get_rand_augment_suite
from nvidia.dali.auto_aug.trivial_augment import get_trivial_augment_wide_suite

from sprout_fast.data.loaders.options import MAGNITUDES, AugmentationOptions

SUITE_SIZE = len(get_trivial_augment_wide_suite())  # 14, as RandAugment's
_TRANSLATION = 150 / 331  # of the side at RandAugment's largest magnitude, as in torchvision


def augmented(images: Any, operations: Any, options: AugmentationOptions, image_size: int) -> Any:
    """Return ``images`` after ``operations``, int32 [n, 3] for each, within a pipeline.

    A row is that of :func:`~sprout_fast.data.loaders.augmentation.draw_operations`. What an
    operation moves into an image is black, as in torchvision.
    """
    settings: dict[str, Any] = {"num_magnitude_bins": MAGNITUDES, "fill_value": 0}
    if options.auto_augment == "trivial":
        suite, count = get_trivial_augment_wide_suite(), 1
    else:
        suite, count = get_rand_augment_suite(True, None, _TRANSLATION), options.rand_ops
        settings["shape"] = (image_size, image_size)
    for row in range(count):
        magnitude = signed_bin(operations[row, 1], operations[row, 2])
        images = select(suite, operations[row, 0], data=images, magnitude_bin=magnitude, **settings)
    return images
