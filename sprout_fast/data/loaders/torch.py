"""torchvision's loader: the same batches' meaning as DALI's, by PIL, transforms v2 and workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate
from torchvision.transforms import InterpolationMode, v2

from sprout_fast.data.loaders import augmentation
from sprout_fast.data.loaders.order import shard_order
from sprout_fast.data.loaders.state import check_state
from sprout_fast.data.readers.listing import FileSplit
from sprout_fast.errors import UserError


def _transform(train: bool, image_size: int) -> v2.Transform:
    resize = {"interpolation": InterpolationMode.BILINEAR, "antialias": True}
    if train:
        return v2.Compose(
            [
                v2.RandomResizedCrop(
                    image_size,
                    scale=augmentation.CROP_SCALE,
                    ratio=augmentation.CROP_RATIO,
                    **resize,
                ),
                v2.RandomHorizontalFlip(augmentation.FLIP_PROBABILITY),
            ]
        )
    return v2.Compose(
        [
            v2.Resize(augmentation.validation_short_side(image_size), **resize),
            v2.CenterCrop(image_size),
        ]
    )


class _Images(Dataset):
    """Decoded and transformed images uint8 [S, S, 3] with their labels; keys are (epoch, index).

    Every random number follows from the seed and the key, so neither the number of workers nor the
    place where a run was resumed changes an image.
    """

    def __init__(self, split: FileSplit, train: bool, image_size: int, seed: int) -> None:
        # Arrays, because workers would copy the pages of a million Python objects one by one.
        self._paths = np.array(split.paths, dtype=np.bytes_)
        self._labels = np.array(split.labels, dtype=np.int64)
        self._transform = _transform(train, image_size)
        self._train = train
        self._seed = seed

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int] | UserError:
        epoch, index = key
        path = self._paths[index].decode()
        try:
            with Image.open(path) as file:
                image = v2.functional.pil_to_tensor(file.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            # Returned, since an exception would reach the user wrapped in a worker's traceback.
            return UserError(f"{path}: not an image that PIL can read ({error})")
        if self._train:
            with _seeded([self._seed, epoch, index]):
                image = self._transform(image)
        else:
            image = self._transform(image)
        return image.permute(1, 2, 0).contiguous(), int(self._labels[index])


@contextmanager
def _seeded(entropy: list[int]) -> Iterator[None]:
    """Draw from the CPU's global generator, which the transforms use, seeded; restore it after.

    Not `torch.manual_seed`: that seeds all devices and takes longer than decoding an image.
    """
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


def _collate(samples: list[tuple[Tensor, int] | UserError]) -> list[Tensor] | UserError:
    return next((s for s in samples if isinstance(s, UserError)), None) or default_collate(samples)


class _Order(Sampler):
    """Keys of one shard's images: a new permutation each epoch in training, else each in turn."""

    def __init__(self, num_images: int, train: bool, seed: int, shard_id: int, num_shards: int):
        self._settings = {
            "num_images": num_images,
            "train": train,
            "seed": seed,
            "shard_id": shard_id,
            "num_shards": num_shards,
        }
        self.epoch = 0
        self._length = len(self._indices())  # the same in each epoch

    def _indices(self) -> np.ndarray:
        return shard_order(**self._settings, epoch=self.epoch)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for index in self._indices():
            yield self.epoch, int(index)


class TorchLoader:
    """Batches of one split, by torchvision and worker processes; see `DaliLoader` for the terms."""

    def __init__(
        self,
        split: FileSplit,
        *,
        train: bool,
        batch_size: int,
        image_size: int,
        device: torch.device,
        seed: int,
        workers: int,
        shard_id: int = 0,
        num_shards: int = 1,
    ) -> None:
        self.batch_size = batch_size
        self.num_images = len(split)
        self._device = device
        self._settings = {
            "loader": "torch",
            "seed": seed,
            "batch_size": batch_size,
            "num_images": len(split),
            "num_shards": num_shards,
        }
        self._epoch = 0
        self._order = _Order(len(split), train, seed, shard_id, num_shards)
        self._batches = DataLoader(
            _Images(split, train, image_size, seed),
            batch_size,
            sampler=self._order,
            drop_last=train,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
            collate_fn=_collate,
            generator=torch.Generator(),  # else every epoch draws from the global one
        )

    def __len__(self) -> int:
        """Batches in an epoch, on this rank."""
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch.

        Raises:
            UserError: an image cannot be decoded; its file is named.
        """
        self._order.epoch = self._epoch
        for batch in self._batches:
            if isinstance(batch, UserError):
                raise UserError(str(batch))  # raising `batch` itself would tie a reference cycle
            nhwc, labels = (tensor.to(self._device, non_blocking=True) for tensor in batch)
            yield nhwc.permute(0, 3, 1, 2), labels
        self._epoch += 1

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
