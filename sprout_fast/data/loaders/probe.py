"""Find the images that DALI cannot read, by name.

A file that DALI cannot decode ends its pipeline, often without saying which file it was. The
loader then comes here: the suspects are decoded apart from training, in small batches, and a batch
that fails is decoded image by image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
from nvidia.dali import fn, pipeline_def, types

_BATCH = 64


@pipeline_def(batch_size=_BATCH, device_id=None, prefetch_queue_depth=1)
def decoder(whole: bool):
    """Encoded images, fed as "encoded", to uint8 [H, W, 3]; or to their shapes, by header alone."""
    encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
    if whole:
        return fn.decoders.image(encoded, output_type=types.RGB, adjust_orientation=False)
    return fn.peek_image_shape(encoded)


def find_undecodable(
    samples: Iterable[tuple[str, bytes]], *, whole: bool, num_threads: int
) -> Iterator[str]:
    """Yield the names of the encoded images that DALI's CPU decoder does not take.

    Args:
        samples: name and content of each image file.
        whole: decode the images; False reads their headers alone, which is some ten times faster
            and finds what is no image at all.
        num_threads: threads to decode with.
    """
    samples = iter(samples)
    pipeline = None
    while batch := list(islice(samples, _BATCH)):
        pipeline = pipeline or decoder(whole, num_threads=num_threads)
        if not _decodes(pipeline, batch):
            pipeline = None  # a failure leaves a pipeline unusable
            for sample in batch:
                if not _decodes(decoder(whole, num_threads=1), [sample]):
                    yield sample[0]


def _decodes(pipeline, batch: list[tuple[str, bytes]]) -> bool:
    contents = [np.frombuffer(content, dtype=np.uint8) for _, content in batch]
    if any(content.size == 0 for content in contents):
        return False
    pipeline.feed_input("encoded", contents)
    try:
        pipeline.run()
    except RuntimeError:
        return False
    return True
