"""The memory loader: small images are held on the device whole; a batch is three gathers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sprout_fast.data.listing import Split
from sprout_fast.data.loaders import augmentation
from sprout_fast.data.loaders.base import LOADERS, EpochLoader
from sprout_fast.errors import UserError


def crop_and_flip(images: Tensor, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
    """Crop each image to its own size out of a border of zeros, and mirror some.

    Equal to ``F.pad`` by ``augmentation.PADDING``, ``[top : top + H, left : left + W]`` and
    ``flip(W)`` for each of ``images`` [B, H, W, C]; ``top`` and ``left`` are int64 [B] in
    [0, 2 PADDING], ``flip`` is bool [B]. The result is in new memory.

    >>> images = torch.arange(1, 5, dtype=torch.uint8).view(1, 2, 2, 1)
    >>> crop_and_flip(images, *torch.tensor([[4], [5]]), torch.tensor([False])).flatten()
    tensor([2, 0, 4, 0], dtype=torch.uint8)
    """
    batch, height, width, channels = images.shape
    border, device = augmentation.PADDING, images.device
    padded = F.pad(images, (0, 0, border, border, border, border))
    # Rows are contiguous, so index_select copies each at once; gather, which picks one value at a
    # time, is left with the columns of the rows that are kept.
    image = torch.arange(batch, device=device) * padded.shape[1]
    row = (image + top)[:, None] + torch.arange(height, device=device)
    rows = padded.view(-1, padded.shape[2] * channels).index_select(0, row.flatten())
    column = torch.arange(width, device=device)
    column = left[:, None] + torch.where(flip[:, None], column.flip(0), column)
    value = column[:, :, None] * channels + torch.arange(channels, device=device)
    value = value.view(batch, 1, -1).expand(-1, height, -1)
    return rows.view(batch, height, -1).gather(2, value).view(images.shape)


@contextmanager
def _one_thread() -> Iterator[None]:
    # A batch takes half a millisecond on one thread and not much less on two. On a busy machine two
    # threads wait for each other for a time slice in every operator: some fifty milliseconds.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@LOADERS.register("memory")
class MemoryLoader(EpochLoader):
    """Batches of small images of one size, kept as they are; see :class:`EpochLoader`.

    Training pads by ``augmentation.PADDING`` zeros, crops at a uniformly drawn place and mirrors
    every other image on average, each image independently.

    Raises:
        UserError: an image cannot be decoded or has another size than the others or than
            ``image_size``, if that is given.
    """

    name = "memory"
    resizes = False

    def __init__(self, split: Split, *, image_size: int | None = None, **options: Any) -> None:
        super().__init__(split, image_size=image_size, **options)
        images = torch.from_numpy(split.decode())
        height, width = images.shape[1:3]
        if image_size is not None and (height, width) != (image_size, image_size):
            raise UserError(
                f"{image_size}: the memory loader uses images as they are, and "
                f"{split.name(0)} has {width} x {height} pixels",
                option="image_size",
            )
        self.image_size = (height, width)
        self._images = images.to(self._device)
        self._labels = torch.tensor(split.labels, device=self._device)

    def _batches(self, epoch: int, samples: list[np.ndarray]) -> Iterator[tuple[Tensor, Tensor]]:
        order, crops = np.concatenate([*samples, np.empty(0, np.int64)]), ()
        if self._train:
            # Drawn for all samples and by NumPy, so that ranks and devices draw the same.
            random = np.random.default_rng([self._seed, epoch, 1])
            count = self.num_images * self._repeats
            top, left = random.integers(2 * augmentation.PADDING + 1, size=(2, count))
            flip = random.random(count) < augmentation.FLIP_PROBABILITY
            crops = (top[order], left[order], flip[order])
        order = order // self._repeats
        gathered, *crops = (torch.from_numpy(row).to(self._device) for row in (order, *crops))
        for first in range(0, len(order), self.batch_size):
            batch = slice(first, first + self.batch_size)
            with _one_thread():
                images = self._images.index_select(0, gathered[batch])
                if self._train:
                    top, left, flip = (row[batch] for row in crops)
                    images = crop_and_flip(images, top, left, flip)
                labels = self._labels.index_select(0, gathered[batch])
            yield images, labels
