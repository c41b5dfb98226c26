"""The DALI loader: files are read by threads, decoded, resized and cropped by a DALI pipeline.

On a GPU DALI's ``mixed`` decoder is used and what follows it runs there; on the CPU no driver is
needed.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sprout_fast.data.decode import as_ppm, decode, has_dali, jpeg_size
from sprout_fast.data.listing import Split
from sprout_fast.data.loaders.augmentation import View, draw_operations
from sprout_fast.data.loaders.base import LOADERS, SquareLoader
from sprout_fast.data.loaders.options import AugmentationOptions
from sprout_fast.data.names import printable
from sprout_fast.errors import FatalError, UserError

# Of the fields of a View that a pipeline receives.
_DTYPES = (np.int32, np.int32, np.float32, np.int32, np.int32)


class _Batch(NamedTuple):
    samples: np.ndarray
    encoded: list[bytes]
    views: list[View]


def pipeline_inputs(
    encoded: Sequence[bytes],
    views: Sequence[View],
    augmentation: AugmentationOptions = AugmentationOptions(),  # noqa: B008  (never changed)
) -> tuple[Any, ...]:
    """Return what the source of :func:`sprout_fast.data.dali.views` returns for a batch."""
    *fields, draws = zip(*views, strict=True)
    columns = [list(np.array(f, dtype)) for f, dtype in zip(fields, _DTYPES, strict=True)]
    if augmentation.auto_augment != "none":
        from sprout_fast.data.dali_policy import SUITE_SIZE

        columns.append([draw_operations(augmentation, draw, SUITE_SIZE) for draw in draws])
    return ([np.frombuffer(content, np.uint8) for content in encoded], *columns)


class _Feed:
    """What a pipeline calls for its input; it keeps a batch until its images are returned.

    It does not know the pipeline: a cycle would delay the end of both.
    """

    def __init__(self, augmentation: AugmentationOptions) -> None:
        self._augmentation = augmentation
        self.ahead: Iterator[_Batch] = iter(())
        self.fed: deque[_Batch] = deque()

    def __call__(self) -> tuple[Any, ...]:
        batch = next(self.ahead)
        self.fed.append(batch)
        return pipeline_inputs(batch.encoded, batch.views, self._augmentation)


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
        # What the next iterator starts with.
        self._idle: tuple[_Feed, Any] = _Feed(self._augmentation), None
        self._threads: ThreadPoolExecutor | None = None

    def _batches(self, epoch: int, samples: list[np.ndarray]) -> Iterator[tuple[Tensor, Tensor]]:
        self._threads = self._threads or ThreadPoolExecutor(
            self._loading.read_threads or self._workers, "sprout_fast read"
        )
        # An iterator has its pipeline to itself, and returns it empty: if the epoch is broken off,
        # batches are left in it, which would be taken for the first ones of the next epoch.
        (feed, pipeline), self._idle = self._idle, (_Feed(self._augmentation), None)
        feed.ahead = self._read_ahead(epoch, samples, self._threads)
        for batch in samples:
            repaired = False
            while True:
                try:
                    if pipeline is None:
                        pipeline = self._build(feed)
                    (images,) = pipeline.run()
                    break
                except RuntimeError as error:
                    pipeline = None  # a failure leaves a pipeline unusable
                    if repaired or not feed.fed:
                        raise self._failure(error, batch) from error
                self._repair(feed)
                repaired = True
            feed.fed.popleft()
            # Every output has memory of its own in DALI's dynamic executor: no copy.
            labels = torch.from_numpy(self._split.labels[batch // self._repeats])
            if self._device.type == "cuda":
                labels = labels.pin_memory()  # else the copy waits for the GPU
            yield torch.from_dlpack(images.as_tensor()), labels.to(self._device, non_blocking=True)
        if pipeline is not None:
            pipeline.reset()
        feed.ahead = iter(())
        self._idle = feed, pipeline

    def _read_ahead(
        self, epoch: int, samples: list[np.ndarray], threads: ThreadPoolExecutor
    ) -> Iterator[_Batch]:
        waiting: deque[tuple[np.ndarray, list[Future]]] = deque()
        remaining = iter(samples)
        try:
            while True:
                wanted = 1 + self._loading.read_ahead - len(waiting)
                for batch in itertools.islice(remaining, wanted):
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

    def _read(self, epoch: int, sample: int) -> tuple[bytes, View]:
        index = sample // self._repeats
        content = self._split.read(index)
        size = jpeg_size(content)
        if size is None:
            pixels = decode(content, self._split.name(index)).pixels
            content, size = as_ppm(pixels), (pixels.shape[0], pixels.shape[1])
        return content, self._view(*size, epoch, sample)

    def _build(self, feed: _Feed) -> Any:
        from sprout_fast.data.dali import views

        gpu = None
        if self._device.type != "cpu":
            index = self._device.index
            gpu = torch.cuda.current_device() if index is None else index
        settings = {"batch_size": self.batch_size, "num_threads": self._workers, "device_id": gpu}
        return views(feed, self.image_size[0], self._loading, self._augmentation, **settings)

    def _name(self, sample: int) -> str:
        return self._split.name(int(sample) // self._repeats)

    def _failure(self, error: RuntimeError, batch: np.ndarray) -> FatalError:
        first, last = (self._name(sample) for sample in (batch[0], batch[-1]))
        reason = " ".join(str(error).split("Stacktrace")[0].split())[:500]
        return FatalError(
            f"DALI failed on {len(batch)} images, the first {first} and the last {last}, which "
            f"Pillow decodes: {printable(reason)} (tools/verify_data.py checks every image)"
        )

    def _repair(self, feed: _Feed) -> None:
        """Decode by Pillow what DALI cannot decode of the oldest batch, and feed all again.

        DALI does not say which image it was. The batch is in memory: no file is read again.
        """
        from sprout_fast.data.dali import WholeImages

        first = feed.fed[0]
        whole = WholeImages(len(first.encoded), self._workers)(first.encoded)
        failed = [i for i, pixels in enumerate(whole) if pixels is None]
        for i in failed or range(len(whole)):
            name = self._name(first.samples[i])
            first.encoded[i] = as_ppm(decode(first.encoded[i], name).pixels)
        feed.ahead, feed.fed = itertools.chain(feed.fed, feed.ahead), deque()
