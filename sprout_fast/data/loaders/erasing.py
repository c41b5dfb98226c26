"""Random erasing, on the batches of any loader."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

SCALE = (0.02, 0.33)  # fraction of the image's area that is erased
RATIO = (0.3, 3.3)  # height of the rectangle over its width
_ATTEMPTS = 10  # draws of a rectangle that fits, before nothing is erased, as in torchvision


class Erasing:
    """Random erasing (Zhong et al. 2020), as torchvision's ``RandomErasing`` does it.

    Args:
        probability: of an image having a rectangle erased.
        mean: color of the rectangle, in [0, 1]; it is 0 in a batch that is normalized by it.
        seed: seed of all draws, which depend on it, the epoch and the sample alone.
    """

    def __init__(self, probability: float, mean: Sequence[float], seed: int) -> None:
        self._probability, self._seed = probability, seed
        self._color = torch.tensor([round(255 * value) for value in mean], dtype=torch.uint8)
        self._chosen: tuple[int, np.ndarray] = -1, np.empty(0, bool)  # in this epoch

    def __call__(self, images: Tensor, epoch: int, samples: np.ndarray, count: int) -> None:
        """Erase rectangles of images, uint8 [B, H, W, 3], in place.

        ``samples``, int64 [B], are their numbers among the ``count`` samples.
        """
        if not self._probability:
            return
        if self._chosen[0] != epoch:
            # Once for all samples; making a generator for each takes longer than to draw.
            drawn = np.random.default_rng([self._seed, epoch, 3]).random(count)
            self._chosen = epoch, drawn < self._probability
        color = self._color = self._color.to(images.device)
        for row in np.flatnonzero(self._chosen[1][samples]).tolist():
            random = np.random.default_rng([self._seed, epoch, int(samples[row]), 3])
            box = rectangle(images.shape[1], images.shape[2], random)
            if box is not None:
                top, left, height, width = box
                images[row, top : top + height, left : left + width] = color


def rectangle(
    height: int, width: int, random: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """Draw a rectangle of an image: top, left, height and width, or None if none fits.

    >>> top, left, height, width = rectangle(32, 32, np.random.default_rng(0))
    >>> 0.3 < height / width < 3.3 and top + height <= 32 and left + width <= 32
    True
    """
    for _ in range(_ATTEMPTS):
        area = height * width * random.uniform(*SCALE)
        ratio = math.exp(random.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < h < height and 0 < w < width:
            top, left = random.integers(height - h + 1), random.integers(width - w + 1)
            return int(top), int(left), h, w
    return None
