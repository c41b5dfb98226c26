"""Image data sets and their loaders.

:func:`build_loaders` makes the training and the validation loader of a data set, whose batches are
``(images, labels)``: images uint8 [B, 3, H, W], a channels-last view of NHWC memory, never
normalized; labels int64 [B]. :func:`read_images` reads validation images as tensors. Importing
this package imports neither torch nor DALI.
"""

from sprout_fast._lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(__name__, __file__)
