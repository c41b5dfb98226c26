"""The torch loader: Pillow, torchvision's transforms and worker processes."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from sprout_fast.data.decode import decode
from sprout_fast.data.listing import Split
from sprout_fast.data.loaders.augmentation import View
from sprout_fast.data.loaders.base import LOADERS, SquareLoader
from sprout_fast.data.loaders.options import MAGNITUDES, AugmentationOptions
from sprout_fast.errors import UserError

_TIME_TO_SAVE = 60  # seconds

_Key = tuple[int, int]  # epoch, sample


class _Images(Dataset):
    """Decoded, cropped and resized images uint8 [S, S, 3] with their labels."""

    def __init__(
        self,
        split: Split,
        side: int,
        view: Callable[[int, int, int, int], View],
        augmentation: AugmentationOptions,
    ) -> None:
        self._split, self._side, self._view = split, side, view
        self._repeats, self._policy = augmentation.repeated_augmentation, _policy(augmentation)

    def __getitem__(self, key: _Key) -> tuple[Tensor, int] | UserError:
        from torchvision.transforms.v2 import functional  # the package works without torchvision

        epoch, sample = key
        index = sample // self._repeats
        try:
            pixels = decode(self._split.read(index), self._split.name(index)).pixels
        except UserError as error:
            # Returned, since an exception would reach the user wrapped in a worker's traceback.
            return error
        height, width, _ = pixels.shape
        (top, left), (h, w), size, crop, flip, draw = self._view(height, width, epoch, sample)
        image = torch.tensor(pixels[top : top + h, left : left + w]).permute(2, 0, 1)
        image = functional.resize(image, list(size), antialias=True)
        (top, left), side = crop, self._side
        image = image[:, top : top + side, left : left + side]
        if flip:
            image = functional.horizontal_flip(image)
        if self._policy is not None:
            with torch.random.fork_rng(devices=[]):  # without workers it is the training's own
                torch.default_generator.manual_seed(draw)
                image = self._policy(image)
        return image.permute(1, 2, 0).contiguous(), int(self._split.labels[index])


def _policy(options: AugmentationOptions) -> Callable[[Tensor], Tensor] | None:
    """Return torchvision's transform of uint8 [3, H, W], which draws from torch's generator."""
    if options.auto_augment == "none":
        return None
    from torchvision.transforms import v2

    bilinear = v2.InterpolationMode.BILINEAR
    if options.auto_augment == "trivial":
        return v2.TrivialAugmentWide(MAGNITUDES, bilinear)
    return v2.RandAugment(options.rand_ops, options.rand_magnitude, MAGNITUDES, bilinear)


def _start_worker(worker_id: int) -> None:
    # A forked worker must not collect what it inherited: the destructor of a DALI pipeline waits
    # for threads that the worker does not have, or crashes.
    gc.freeze()
    # torchrun and schedulers send signals to all processes, and the training process is to finish
    # its step. It would fail if a worker ended first. On SIGTERM, which also ends the workers of a
    # process that exits, they stay for as long as that may take.
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(_TIME_TO_SAVE))


def _collate(samples: list[tuple[Tensor, int] | UserError]) -> list[Tensor] | UserError:
    return next((s for s in samples if isinstance(s, UserError)), None) or default_collate(samples)


@LOADERS.register("torch")
class TorchLoader(SquareLoader):
    """Batches of square images, made by worker processes; see :class:`EpochLoader`.

    Raises:
        UserError: torchvision is not installed.
    """

    name = "torch"

    def __init__(self, split: Split, **options: Any) -> None:
        super().__init__(split, **options)
        if find_spec("torchvision") is None:
            raise UserError("torch: requires torchvision, which is not installed", option="loader")
        import_module("torchvision.transforms.v2")  # else each worker would, for seconds
        self._keys: list[list[_Key]] = []  # of the batches of the present epoch
        self._started = False
        self._data_loader = DataLoader(
            _Images(split, self.image_size[0], self._view, self._augmentation),
            batch_sampler=self._keys,
            num_workers=self._workers,
            persistent_workers=self._workers > 0,
            prefetch_factor=self._loading.prefetch if self._workers else None,
            pin_memory=self._device.type == "cuda",
            collate_fn=_collate,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # else every epoch draws from the global one
        )

    def _batches(self, epoch: int, samples: list[np.ndarray]) -> Iterator[tuple[Tensor, Tensor]]:
        if not self._started:
            gc.collect()  # else the workers might, before they are frozen
            self._started = True
        self._keys[:] = [[(epoch, i) for i in batch.tolist()] for batch in samples]
        for batch in self._data_loader:
            if isinstance(batch, UserError):
                raise UserError(batch.message, option=batch.option)
            images, labels = (tensor.to(self._device, non_blocking=True) for tensor in batch)
            yield images, labels
