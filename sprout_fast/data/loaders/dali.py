"""The DALI loader: files are read by threads, decoded, resized and cropped by a DALI pipeline.

On a GPU DALI's ``mixed`` decoder is used and what follows it runs there; on the CPU no driver is
needed.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sprout_fast.data.decode import as_ppm, decode, has_dali, jpeg_size
from sprout_fast.data.listing import Split
from sprout_fast.data.loaders.augmentation import View
from sprout_fast.data.loaders.base import LOADERS, SquareLoader
from sprout_fast.errors import UserError

_READ_AHEAD = 3  # batches that are being read, beyond those in the pipeline


@dataclass
class _Batch:
    """What a batch feeds to the pipeline, kept until the pipeline has returned its images."""

    indices: np.ndarray
    encoded: list[bytes]
    views: list[View]

    def inputs(self) -> tuple[Any, ...]:
        start, shape, size, crop, flip = zip(*self.views, strict=True)
        return (
            [np.frombuffer(content, np.uint8) for content in self.encoded],
            *(list(np.array(pairs, np.int32)) for pairs in (start, shape)),
            list(np.array(size, np.float32)),
            list(np.array(crop, np.int32)),
            list(np.array(flip, np.int32)),
        )


@LOADERS.register("dali")
class DaliLoader(SquareLoader):
    """Batches of square images, decoded and augmented by DALI; see ``EpochLoader``.

    Raises:
        UserError: DALI is not installed.
    """

    name = "dali"

    def __init__(self, split: Split, **options: Any) -> None:
        super().__init__(split, **options)
        if not has_dali():
            raise UserError(
                "dali: NVIDIA DALI is not installed; install it with "
                "`pip install nvidia-dali-cuda130`, or use the torch loader",
                option="loader",
            )
        self._pipeline: Any = None
        self._threads: ThreadPoolExecutor | None = None
        self._ahead: Iterator[_Batch] = iter(())
        self._fed: deque[_Batch] = deque()

    def _batches(self, indices: list[np.ndarray]) -> Iterator[tuple[Tensor, Tensor]]:
        self._threads = self._threads or ThreadPoolExecutor(self._workers)
        self._ahead, self._fed = self._read_ahead(indices, self._threads), deque()
        complete = False
        try:
            for batch in indices:
                images = self._run()
                # Every output has memory of its own in DALI's dynamic executor: no copy.
                labels = torch.from_numpy(self._split.labels[batch])
                yield torch.from_dlpack(images), labels.to(self._device, non_blocking=True)
            complete = True
        finally:
            if complete and self._pipeline is not None:
                self._pipeline.reset()
                self._ahead = iter(())
            else:  # batches of the epoch that was broken off are still in it
                self._pipeline = None

    def _read_ahead(
        self, indices: list[np.ndarray], threads: ThreadPoolExecutor
    ) -> Iterator[_Batch]:
        waiting: deque[tuple[np.ndarray, list[Future]]] = deque()
        remaining = iter(indices)
        try:
            while True:
                for batch in remaining:
                    futures = [threads.submit(self._read, self._epoch, int(i)) for i in batch]
                    waiting.append((batch, futures))
                    if len(waiting) > _READ_AHEAD:
                        break
                if not waiting:
                    return
                batch, futures = waiting.popleft()
                encoded, views = zip(*(future.result() for future in futures), strict=True)
                yield _Batch(batch, list(encoded), list(views))
        finally:
            for _, futures in waiting:
                for future in futures:
                    future.cancel()

    def _read(self, epoch: int, index: int) -> tuple[bytes, View]:
        content = self._split.read(index)
        size = jpeg_size(content)
        if size is None:
            pixels = decode(content, self._split.name(index)).pixels
            content, size = as_ppm(pixels), (pixels.shape[0], pixels.shape[1])
        return content, self._views(*size, epoch, index)

    def _feed(self) -> tuple[Any, ...]:
        batch = next(self._ahead)
        self._fed.append(batch)
        return batch.inputs()

    def _build(self) -> Any:
        from sprout_fast.data.dali import views

        feed = weakref.WeakMethod(self._feed)  # a cycle would keep a dropped loader alive

        def source() -> tuple[Any, ...]:
            alive = feed()
            assert alive is not None
            return alive()

        return views(
            source,
            self._views.image_size,
            batch_size=self.batch_size,
            num_threads=self._workers,
            device_id=_device_id(self._device),
        )

    def _run(self):
        """Return the images of the next batch; those that DALI cannot decode, Pillow decodes."""
        from sprout_fast.data.dali import WholeImages

        for repaired in (False, True):
            if self._pipeline is None:
                self._pipeline = self._build()
            try:
                (images,) = self._pipeline.run()
                self._fed.popleft()
                return images.as_tensor()
            except RuntimeError:
                self._pipeline = None  # a failure leaves a pipeline unusable
                if repaired or not self._fed:
                    raise
            first, *later = self._fed
            whole = WholeImages(len(first.encoded), self._workers)(first.encoded)
            failed = [i for i, pixels in enumerate(whole) if pixels is None]
            for i in failed or range(len(whole)):
                name = self._split.name(int(first.indices[i]))
                first.encoded[i] = as_ppm(decode(first.encoded[i], name).pixels)
            self._ahead, self._fed = _chain([first, *later], self._ahead), deque()
        raise AssertionError("unreachable")


def _chain(batches: list[_Batch], rest: Iterator[_Batch]) -> Iterator[_Batch]:
    yield from batches
    yield from rest


def _device_id(device: torch.device) -> int | None:
    """Return the number of the GPU, or None for the CPU."""
    if device.type == "cpu":
        return None
    return torch.cuda.current_device() if device.index is None else device.index
