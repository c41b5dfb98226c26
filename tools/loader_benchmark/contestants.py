"""What is measured: each makes endless batches of the same images with a number of threads."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from loader_benchmark.options import Options
from sprout_fast.data import LOADERS, has_dali
from sprout_fast.data.decode import as_ppm, decode, jpeg_size
from sprout_fast.data.listing import Split
from sprout_fast.data.loaders.augmentation import View, training_view

Batches = Iterator[object]
Contestant = Callable[[int], Batches]  # from the number of threads

_BATCHES_PER_EPOCH = 200  # so that the start of an epoch, which waits for the first batch, is rare


def contestants(split: Split, options: Options, device: torch.device) -> dict[str, Contestant]:
    """Return the rows of the table by name."""

    def loader(name: str) -> Contestant:
        # Each image several times per epoch.
        copies = -(-_BATCHES_PER_EPOCH * options.batch_size // len(split))
        repeated = split.subset(np.tile(np.arange(len(split)), copies))

        def batches(threads: int) -> Batches:
            made = LOADERS[name](
                repeated,
                train=True,
                batch_size=options.batch_size,
                image_size=options.image_size,
                device=device,
                seed=0,
                workers=threads,
                loading=options,
            )
            return itertools.chain.from_iterable(itertools.repeat(made))

        return batches

    rows = {name: loader(name) for name in ("dali", "torch") if name != "dali" or has_dali()}
    if has_dali():
        rows["decoding alone"] = decoding_alone(split, options, device)
    return rows


def decoding_alone(split: Split, options: Options, device: torch.device) -> Contestant:
    """Return DALI's part of the loader: decoding, resizing and cropping of files in memory."""
    random = np.random.default_rng(0)

    def prepared(index: int) -> tuple[bytes, View]:
        content = split.read(index)
        size = jpeg_size(content)
        if size is None:
            pixels = decode(content, split.name(index)).pixels
            content, size = as_ppm(pixels), (pixels.shape[0], pixels.shape[1])
        return content, training_view(*size, options.image_size, random)

    def batches(threads: int) -> Batches:
        from sprout_fast.data.dali import views
        from sprout_fast.data.loaders.dali import pipeline_inputs

        chosen = itertools.cycle(range(len(split)))

        def source() -> tuple:
            rows = [images[index] for index in itertools.islice(chosen, options.batch_size)]
            encoded, drawn = zip(*rows, strict=True)
            return pipeline_inputs(encoded, drawn)

        on_gpu = None if device.type == "cpu" else device.index or 0
        settings = {"batch_size": options.batch_size, "num_threads": threads, "device_id": on_gpu}
        pipeline = views(source, options.image_size, options, **settings)
        while True:
            yield pipeline.run()

    images = [prepared(index) for index in range(len(split))]
    return batches


def read_all(split: Split, threads: int) -> tuple[int, float]:
    """Read all files, which are then in the page cache; return bytes and seconds."""
    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        size = sum(map(len, pool.map(split.read, range(len(split)))))
    return size, time.perf_counter() - start
