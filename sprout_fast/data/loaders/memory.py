"""The loader of small images: the whole data set lies on the device, batches are made there.

Decoding, worker processes and copies to the device fall away; a training batch is three gathers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sprout_fast.data.loaders import augmentation
from sprout_fast.data.loaders.order import shard_order
from sprout_fast.data.loaders.state import check_state


def crop_and_flip(images: Tensor, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
    """Crop each image to its own size out of a border of zeros, and mirror some.

    The same as ``F.pad`` by `augmentation.PADDING`, ``[top : top + H, left : left + W]`` and
    ``flip(W)`` on each image for itself.

    Args:
        images: [B, H, W, C], any dtype.
        top, left: int64 [B], where the crop begins in the padded image: in [0, 2 PADDING].
        flip: bool [B], whether to mirror left to right.

    Returns:
        the crops, [B, H, W, C], in memory of their own.
    """
    batch, height, width, channels = images.shape
    border, device = augmentation.PADDING, images.device
    padded = F.pad(images, (0, 0, border, border, border, border))
    # Rows are whole pieces of memory, which index_select copies at once; gather picks the columns
    # of each, one value at a time, so it is left with no more than what the batch holds.
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
    """Keep PyTorch's CPU operators on the calling thread.

    A batch takes half a millisecond on one thread and not much less on two, which on a busy
    machine wait for each other a time slice in every operator: some fifty milliseconds.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class MemoryLoader:
    """Batches of one split that lies on the device; see `DaliLoader` for the terms.

    Training pads by `augmentation.PADDING` zeros, crops at a uniformly drawn place and mirrors one
    image in two, each image for itself. Order, crops and flips are functions of the seed, the
    epoch and the image's index: neither the batch size nor the number of ranks changes what
    becomes of an image in an epoch, and the state to resume from is the number of the epoch.

    Args:
        images: uint8 [N, H, W, 3].
        labels: int64 [N].
        train: random crops, flips and order; False for validation.
        batch_size: images in a batch, on this rank.
        device: where the images go.
        seed: of the order, the crops and the flips.
        shard_id: this rank, in [0, num_shards).
        num_shards: how many ranks share the data set.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        train: bool,
        batch_size: int,
        device: torch.device,
        seed: int,
        shard_id: int = 0,
        num_shards: int = 1,
    ) -> None:
        self.batch_size = batch_size
        self.num_images = len(images)
        self.image_size = tuple(images.shape[1:3])  # height, width
        self._images, self._labels = images.to(device), labels.to(device)
        self._train = train
        self._shard = {
            "num_images": len(images),
            "train": train,
            "seed": seed,
            "shard_id": shard_id,
            "num_shards": num_shards,
        }
        self._settings = {
            "loader": "memory",
            "seed": seed,
            "batch_size": batch_size,
            "num_images": len(images),
            "num_shards": num_shards,
        }
        self._epoch = 0
        count = len(shard_order(**self._shard, epoch=0))
        self._length = count // batch_size if train else -(-count // batch_size)

    def __len__(self) -> int:
        """Batches in an epoch, on this rank."""
        return self._length

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch."""
        order = shard_order(**self._shard, epoch=self._epoch)
        crops = self._crops(order) if self._train else ()
        indices, *crops = (
            torch.from_numpy(numbers).to(self._images.device) for numbers in (order, *crops)
        )
        for first in range(0, self._length * self.batch_size, self.batch_size):
            batch = slice(first, first + self.batch_size)
            with _one_thread():
                images = self._images.index_select(0, indices[batch])
                if self._train:
                    images = crop_and_flip(images, *(numbers[batch] for numbers in crops))
                labels = self._labels.index_select(0, indices[batch])
            yield images.permute(0, 3, 1, 2), labels
        self._epoch += 1

    def _crops(self, order: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """top, left and flip of the images in `order`."""
        # Drawn for all images and by numpy, so that ranks and devices draw the same.
        random = np.random.default_rng([self._shard["seed"], self._epoch, 1])
        top, left = random.integers(2 * augmentation.PADDING + 1, size=(2, self.num_images))
        flip = random.random(self.num_images) < augmentation.FLIP_PROBABILITY
        return top[order], left[order], flip[order]

    def state_dict(self) -> dict[str, Any]:
        """The place in the order of images, after the last epoch that ended."""
        return {**self._settings, "epoch": self._epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the epoch that follows those that `state` has seen.

        Raises:
            UserError: the state is of another loader, data set, seed, batch size or rank count.
        """
        check_state(state, self._settings)
        self._epoch = state["epoch"]
