"""The DALI loader: files are read by threads, decoded, resized and cropped by a DALI pipeline.

On a GPU DALI's ``mixed`` decoder is used and what follows it runs there; on the CPU no driver is
needed.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sprout_fast.data.decode import as_ppm, decode, has_dali, jpeg_size
from sprout_fast.data.listing import Split
from sprout_fast.data.loaders.augmentation import View
from sprout_fast.data.loaders.base import LOADERS, SquareLoader
from sprout_fast.errors import UserError

_READ_AHEAD = 3  # batches that are being read, beyond those in the pipeline
_DTYPES = (np.int32, np.int32, np.float32, np.int32, np.int32)  # of the fields of a View


class _Batch(NamedTuple):
    indices: np.ndarray
    encoded: list[bytes]
    views: list[View]


class _Feed:
    """What a pipeline calls for its input; it keeps a batch until its images are returned.

    It does not know the pipeline: a cycle would delay the end of both.
    """

    def __init__(self) -> None:
        self.ahead: Iterator[_Batch] = iter(())
        self.fed: deque[_Batch] = deque()

    def __call__(self) -> tuple[Any, ...]:
        batch = next(self.ahead)
        self.fed.append(batch)
        fields = zip(zip(*batch.views, strict=True), _DTYPES, strict=True)
        return (
            [np.frombuffer(content, np.uint8) for content in batch.encoded],
            *(list(np.array(field, dtype)) for field, dtype in fields),
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
        self._idle: tuple[_Feed, Any] = _Feed(), None  # what the next iterator starts with
        self._threads: ThreadPoolExecutor | None = None

    def _batches(self, epoch: int, indices: list[np.ndarray]) -> Iterator[tuple[Tensor, Tensor]]:
        self._threads = self._threads or ThreadPoolExecutor(self._workers)
        # An iterator has its pipeline to itself, and returns it empty: if the epoch is broken off,
        # batches are left in it, which would be taken for the first ones of the next epoch.
        (feed, pipeline), self._idle = self._idle, (_Feed(), None)
        feed.ahead = self._read_ahead(epoch, indices, self._threads)
        for batch in indices:
            repaired = False
            while True:
                try:
                    if pipeline is None:
                        pipeline = self._build(feed)
                    (images,) = pipeline.run()
                    break
                except RuntimeError:
                    pipeline = None  # a failure leaves a pipeline unusable
                    if repaired or not feed.fed:
                        raise
                self._repair(feed)
                repaired = True
            feed.fed.popleft()
            # Every output has memory of its own in DALI's dynamic executor: no copy.
            labels = torch.from_numpy(self._split.labels[batch])
            if self._device.type == "cuda":
                labels = labels.pin_memory()  # else the copy below waits for the device
            yield torch.from_dlpack(images.as_tensor()), labels.to(self._device, non_blocking=True)
        if pipeline is not None:
            pipeline.reset()
        feed.ahead = iter(())
        self._idle = feed, pipeline

    def _read_ahead(
        self, epoch: int, indices: list[np.ndarray], threads: ThreadPoolExecutor
    ) -> Iterator[_Batch]:
        waiting: deque[tuple[np.ndarray, list[Future]]] = deque()
        remaining = iter(indices)
        try:
            while True:
                for batch in itertools.islice(remaining, _READ_AHEAD + 1 - len(waiting)):
                    futures = [threads.submit(self._read, epoch, i) for i in batch.tolist()]
                    waiting.append((batch, futures))
                if not waiting:
                    return
                batch, futures = waiting.popleft()
                encoded, views = zip(*(future.result() for future in futures), strict=True)
                yield _Batch(batch, list(encoded), list(views))
        finally:
            for future in itertools.chain(*(futures for _, futures in waiting)):
                future.cancel()

    def _read(self, epoch: int, index: int) -> tuple[bytes, View]:
        content = self._split.read(index)
        size = jpeg_size(content)
        if size is None:
            pixels = decode(content, self._split.name(index)).pixels
            content, size = as_ppm(pixels), (pixels.shape[0], pixels.shape[1])
        return content, self._view(*size, epoch, index)

    def _build(self, feed: _Feed) -> Any:
        from sprout_fast.data.dali import views

        gpu = None
        if self._device.type != "cpu":
            index = self._device.index
            gpu = torch.cuda.current_device() if index is None else index
        settings = {"batch_size": self.batch_size, "num_threads": self._workers, "device_id": gpu}
        return views(feed, self.image_size[0], **settings)

    def _repair(self, feed: _Feed) -> None:
        """Decode by Pillow what DALI cannot decode of the oldest batch, and feed all again."""
        from sprout_fast.data.dali import WholeImages

        first = feed.fed[0]
        whole = WholeImages(len(first.encoded), self._workers)(first.encoded)
        failed = [i for i, pixels in enumerate(whole) if pixels is None]
        for i in failed or range(len(whole)):
            name = self._split.name(int(first.indices[i]))
            first.encoded[i] = as_ppm(decode(first.encoded[i], name).pixels)
        feed.ahead, feed.fed = itertools.chain(feed.fed, feed.ahead), deque()
