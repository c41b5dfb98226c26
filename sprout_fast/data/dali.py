"""DALI's pipelines. Besides dali_policy.py, nothing else in the package imports ``nvidia.dali``.

Encoded images are fed from Python, so a pipeline needs no reader that could fail on a path, a tar
or a file without saying which it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline, pipeline_def
from nvidia.dali.types import DALIDataType, DALIImageType, DALIInterpType

from sprout_fast.data.dali_policy import augmented
from sprout_fast.data.loaders.options import AugmentationOptions, LoadingOptions

_DECODER: dict[str, Any] = {"output_type": DALIImageType.RGB, "adjust_orientation": False}


class WholeImages:
    """Decoder of whole images on the CPU, at most ``batch_size`` per call."""

    def __init__(self, batch_size: int, num_threads: int) -> None:
        self._settings: dict[str, Any] = {"batch_size": batch_size, "num_threads": num_threads}
        self._pipeline: Pipeline | None = None

    def __call__(self, contents: Sequence[bytes]) -> list[np.ndarray | None]:
        """Return uint8 [H, W, 3], valid until the next call, or None if DALI cannot decode it."""
        if not contents:
            return []
        if self._pipeline is None:
            self._pipeline = Pipeline(**self._settings, device_id=None, prefetch_queue_depth=1)
            with self._pipeline as pipeline:
                encoded = fn.external_source(name="encoded", dtype=DALIDataType.UINT8, ndim=1)
                pipeline.set_outputs(fn.decoders.image(encoded, **_DECODER))
        self._pipeline.feed_input("encoded", [np.frombuffer(one, np.uint8) for one in contents])
        try:
            (output,) = self._pipeline.run()
        except RuntimeError:  # which may not say which image it was
            self._pipeline = None  # a failure leaves a pipeline unusable
            if len(contents) == 1:
                return [None]
            half = len(contents) // 2
            # Copies, since the second call overwrites the memory of the first.
            first = [None if one is None else one.copy() for one in self(contents[:half])]
            return first + self(contents[half:])
        if output.is_dense_tensor():
            return list(np.asarray(output.as_tensor()))
        return [np.asarray(image) for image in output]


def views(
    source: Callable[[], tuple[Any, ...]],
    image_size: int,
    loading: LoadingOptions,
    augmentation: AugmentationOptions = AugmentationOptions(),  # noqa: B008  (never changed)
    **settings: Any,
) -> Pipeline:
    """Return a pipeline of views of images: uint8 [B, image_size, image_size, 3].

    ``source`` returns, for a batch, the encoded images, the first five fields of their ``View``s
    and, with a policy, its operations; it raises StopIteration at the end. ``settings`` are
    arguments of the pipeline.
    """
    has_policy, on_gpu = augmentation.auto_augment != "none", settings["device_id"] is not None
    decoder = gpu_decoder(loading) if on_gpu and loading.decode != "cpu" else {"device": "cpu"}
    pair = DALIDataType.INT32
    dtypes = [DALIDataType.UINT8, pair, pair, DALIDataType.FLOAT, pair, pair]
    form: dict[str, Any] = {"dtype": dtypes, "ndim": [1, 1, 1, 1, 1, 0]}
    if has_policy:
        form = {"dtype": [*dtypes, pair], "ndim": [*form["ndim"], 2]}
    outputs = len(form["ndim"])
    options: dict[str, Any] = {"exec_dynamic": True, "prefetch_queue_depth": loading.prefetch}

    # The dynamic executor gives every output memory of its own. A policy has conditionals: each
    # image passes through its own operation alone.
    @pipeline_def(enable_conditionals=has_policy, **options)
    def graph() -> Any:
        inputs: Any = fn.external_source(source=source, num_outputs=outputs, **form)
        images = view(*inputs[:6], image_size=image_size, decoder=decoder)
        images = images.gpu() if on_gpu else images
        return augmented(images, inputs[6], augmentation, image_size) if has_policy else images

    # A policy's operations use two others of DALI's by names that are deprecated, and DALI shows
    # its warnings whatever the filters say.
    with warnings.catch_warnings(record=has_policy):
        return graph(**settings)


def gpu_decoder(loading: LoadingOptions) -> dict[str, Any]:
    """Return the arguments of a decoder that starts on the CPU and ends on the GPU."""
    names = ("hw_decoder_load", "device_memory_padding", "host_memory_padding")
    return {"device": "mixed"} | {name: getattr(loading, name) for name in names}


def view(encoded, start, shape, size, crop, flip, *, image_size: int, decoder: Any) -> Any:
    """Decode a part of each image, resize it, crop it and mirror some, within a pipeline."""
    images: Any = fn.decoders.image_slice(
        encoded, start=start, shape=shape, axes=[0, 1], **decoder, **_DECODER
    )
    linear = DALIInterpType.INTERP_LINEAR
    images = fn.resize(images, size=size, subpixel_scale=False, interp_type=linear, antialias=True)
    images = fn.slice(images, start=crop, shape=[image_size, image_size], axes=[0, 1])
    return fn.flip(images, horizontal=flip)
