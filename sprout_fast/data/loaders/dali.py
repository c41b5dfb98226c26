"""The DALI loader: one pipeline for folders and tars, training and validation, CPU and GPU.

    training    reader -> random-crop decode -> resize -> flip   -> uint8 NHWC
    validation  reader -> decode -> resize -> centre crop        -> uint8 NHWC

With a GPU the decoder is DALI's ``mixed`` one and what follows it runs there; without one
(``device_id=None``) no driver is needed. A pipeline prefetches on threads of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from nvidia.dali import Pipeline, fn, pipeline_def, types
from torch import Tensor

from sprout_fast.data.loaders import augmentation
from sprout_fast.data.loaders.probe import find_undecodable
from sprout_fast.data.loaders.state import check_state
from sprout_fast.data.readers.encoded import IMAGE_EXTENSIONS, encoded_images
from sprout_fast.data.readers.listing import FileSplit, TarSplit
from sprout_fast.errors import UserError

# A tar is read in order: this many encoded images are held, to draw the next one from.
_TAR_SHUFFLE_BUFFER = 4096


@pipeline_def(enable_checkpointing=True, exec_dynamic=True)
def _pipeline(split: FileSplit | TarSplit, train: bool, image_size: int, reader: dict[str, Any]):
    """Images uint8 [B, S, S, 3], and labels int64 [B], or of tars the ``.cls`` bytes [B, L]."""
    if isinstance(split, FileSplit):
        encoded, label = fn.readers.file(files=split.paths, labels=split.labels, **reader)
        label = fn.cast(fn.squeeze(label, axes=[0]), dtype=types.INT64)
    else:
        encoded, label = fn.readers.webdataset(
            paths=split.paths,
            index_paths=split.index_paths,
            ext=[";".join(IMAGE_EXTENSIONS), "cls"],
            **reader,
        )
        label = fn.pad(label)
    return _augment(encoded, train, image_size), label


def _augment(encoded, train: bool, image_size: int):
    """The part that folders and tars share: encoded bytes to uint8 [S, S, 3]."""
    decoder = {
        "device": "cpu" if Pipeline.current().device_id is None else "mixed",
        "output_type": types.RGB,
        "adjust_orientation": False,  # neither does torchvision's image folder
    }
    resize = {"interp_type": types.INTERP_LINEAR, "antialias": True}
    if train:
        images = fn.decoders.image_random_crop(
            encoded,
            random_area=augmentation.CROP_SCALE,
            random_aspect_ratio=augmentation.CROP_RATIO,
            **decoder,
        )
        images = fn.resize(images, size=[image_size, image_size], **resize)
        flip = fn.random.coin_flip(probability=augmentation.FLIP_PROBABILITY)
        return fn.flip(images, horizontal=flip)
    images = fn.decoders.image(encoded, **decoder)
    # The sizes of torchvision's Resize, which truncates the long side, and the place of its
    # CenterCrop, which rounds half to even: DALI's own resize_shorter and crop differ by a pixel.
    sides = images.shape(dtype=types.INT64)[0:2]
    short_side = augmentation.validation_short_side(image_size)
    sides = sides * short_side // fn.reductions.min(sides)
    size = fn.cast(sides, dtype=types.FLOAT)
    images = fn.resize(images, size=size, subpixel_scale=False, **resize)
    margins = sides - image_size
    start = margins // 2
    start = start + (margins & 1) * (start & 1)
    start = fn.cast(start, dtype=types.INT32)
    return fn.slice(images, start=start, shape=[image_size, image_size], axes=[0, 1])


class DaliLoader:
    """Batches of one split, decoded and augmented by DALI.

    Iterating gives one epoch of `(images, labels)` on `device`: images uint8 [B, 3, S, S], a
    channels-last view; labels int64 [B]. The memory belongs to who holds the tensors: no later
    batch is written into it. An epoch that was broken off is begun again by the next iteration.

    In training each rank sees its share of a fresh permutation an epoch, and all ranks the same
    number of full batches. In validation each image comes exactly once over all ranks; the last
    batch may be shorter. All ranks draw the same crop positions and flips, for their different
    images, so that the state that one rank saves is right for all. (Tars whose samples do not
    divide evenly over the ranks resume exactly on that rank alone; the others see another order,
    in which each sample still comes once.)

    Args:
        split: the samples.
        train: random crops, flips and order; False for validation.
        batch_size: images in a batch, on this rank.
        image_size: S, the side of the square images.
        device: where the batches are wanted.
        seed: of the order, the crops and the flips.
        workers: threads that decode.
        shard_id: this rank, in [0, num_shards).
        num_shards: how many ranks share the data set.
    """

    def __init__(
        self,
        split: FileSplit | TarSplit,
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
        self._split = _shuffled(split, seed) if train else split
        self._train = train
        self._device = device
        self._settings = {
            "loader": "dali",
            "seed": seed,
            "batch_size": batch_size,
            "num_images": len(split),
            "num_shards": num_shards,
        }
        reader: dict[str, Any] = {
            "name": "reader",
            "shard_id": shard_id,
            "num_shards": num_shards,
            "pad_last_batch": True,  # every rank runs equally often, and epochs end with a batch
        }
        if not train:
            reader["stick_to_shard"] = True
        else:
            reader["shuffle_after_epoch"] = True
            if isinstance(split, TarSplit):
                reader |= {"random_shuffle": True, "initial_fill": _TAR_SHUFFLE_BUFFER}
        self._arguments = {
            "train": train,
            "image_size": image_size,
            "reader": reader,
            "batch_size": batch_size,
            "num_threads": workers,
            "device_id": _device_id(device),
            "seed": seed,
        }
        # Of the n images, DALI gives shard s those from floor(n s / N) to floor(n (s + 1) / N).
        n = len(split)
        self._shard_size = n * (shard_id + 1) // num_shards - n * shard_id // num_shards
        if train:
            self._length = n // num_shards // batch_size
        else:
            self._length = -(-self._shard_size // batch_size)
        largest_shard = -(-n // num_shards)
        self._runs = -(-largest_shard // batch_size)  # of the pipeline in an epoch
        self._pipe = None
        self._checkpoint: bytes = b""  # at the end of the last whole epoch
        self._running = False

    def __len__(self) -> int:
        """Batches in an epoch, on this rank."""
        return self._length

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch.

        Raises:
            UserError: an image cannot be decoded; its file is named.
        """
        if self._pipe is None or self._running:
            self._pipe = _pipeline(
                self._split, checkpoint=self._checkpoint or None, **self._arguments
            )
        self._running = True
        remaining = self._shard_size
        for run in range(self._runs):
            images, labels = self._run()
            count = min(self.batch_size, remaining)
            remaining -= count
            # Past the length come only the partial batch that training drops, and padding.
            if run < self._length:
                # The dynamic executor gives every output memory of its own, so this copies nothing.
                nhwc = torch.from_dlpack(images.as_tensor())
                yield nhwc[:count].permute(0, 3, 1, 2), self._labels(labels)[:count]
        self._checkpoint = self._pipe.checkpoint()
        self._running = False

    def _labels(self, output) -> Tensor:
        if isinstance(self._split, FileSplit):
            return torch.from_dlpack(output.as_tensor()).to(self._device, non_blocking=True)
        rows = (row.tobytes().rstrip(b"\0") for row in output.as_array())
        labels = [self._split.label_of[content] for content in rows]
        return torch.tensor(labels, device=self._device)

    def state_dict(self) -> dict[str, Any]:
        """The place in the order of images, after the last epoch that ended."""
        # As text: torch.load(weights_only=True) refuses empty bytes.
        return {**self._settings, "checkpoint": self._checkpoint.decode("latin-1")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the epoch that follows those that `state` has seen.

        Raises:
            UserError: the state is of another loader, data set, seed, batch size or rank count.
        """
        check_state(state, self._settings)
        self._checkpoint = state["checkpoint"].encode("latin-1")
        self._pipe = None

    def _run(self) -> tuple[Any, Any]:
        """One run of the pipeline; an image that it fails on is named in a `UserError`."""
        try:
            return self._pipe.run()
        except RuntimeError as error:
            self._pipe = None  # DALI takes a pipeline out of use after any failure
            name = self._name_failure(str(error))
            if name is None:
                raise
            raise UserError(f"{name}: not an image that DALI can read") from error

    def _name_failure(self, message: str) -> str | None:
        """The sample that made DALI fail, as it says itself or as decoding all of them shows."""
        if found := re.search(r"(?:decode sample #\d+ ?|mapping failed): (\S.*)", message):
            return found[1].strip()
        if "nvImageCodec failure" in message or "decode sample" in message:
            threads = self._arguments["num_threads"]
            for whole in (False, True):  # headers first: that is fast, and mostly enough
                samples = encoded_images(self._split)
                for name in find_undecodable(samples, whole=whole, num_threads=threads):
                    return name
        return None


def _device_id(device: torch.device) -> int | None:
    """The GPU's number; None for the CPU."""
    if device.type == "cpu":
        return None
    return torch.cuda.current_device() if device.index is None else device.index


def _shuffled(split: FileSplit | TarSplit, seed: int) -> FileSplit | TarSplit:
    """The split in an order that `seed` fixes: DALI's own shuffle is the same for every seed."""
    order = torch.randperm(len(split.paths), generator=torch.Generator().manual_seed(seed)).tolist()
    lists = (
        {"paths": split.paths, "labels": split.labels}
        if isinstance(split, FileSplit)
        else {"paths": split.paths, "index_paths": split.index_paths}
    )
    return replace(split, **{name: [old[i] for i in order] for name, old in lists.items()})
