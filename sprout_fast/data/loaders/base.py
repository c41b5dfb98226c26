"""Loaders of all kinds: their contract, their registry and the one call that builds them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from sprout_fast.data.decode import has_dali
from sprout_fast.data.listing import Listing, Split
from sprout_fast.data.loaders.augmentation import View, repeated, training_view, validation_view
from sprout_fast.data.loaders.erasing import Erasing
from sprout_fast.data.loaders.options import AugmentationOptions, LoadingOptions
from sprout_fast.data.names import printable
from sprout_fast.data.scanning import scan
from sprout_fast.data.subsets import balanced_subset
from sprout_fast.errors import UserError
from sprout_fast.registry import Registry

LoaderName = Literal["dali", "torch", "memory"]


class Loader(Protocol):
    """The part of :class:`EpochLoader` that a training loop uses."""

    batch_size: int
    num_images: int
    images_done: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...
    def __len__(self) -> int: ...
    def batches_left(self) -> int: ...
    def state_dict(self, batches: int = 0) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class EpochLoader(ABC):
    """Batches of one split, in a reproducible order that resumes.

    Iterating yields one epoch of ``(images, labels)`` on ``device``: images uint8 [B, 3, H, W], a
    channels-last view of NHWC memory; labels int64 [B]. No later batch is written into the memory
    of an earlier one. An epoch that was broken off is restarted by the next iteration.

    Order and augmentation depend on the seed, the epoch and the image's index alone, not on batch
    size, workers or ranks. In training all ranks share one fresh permutation per epoch and see the
    same number of full batches. In validation each image comes exactly once over all ranks, in
    turn; the last batch may be smaller.

    The state to resume from is the same on every rank: the number of the epoch, and how many
    images at the start of its permutation the ranks have had together. So another number of ranks,
    another batch size or another kind of loader resumes within an epoch too, with the images that
    the epoch has not seen yet::

        state = loader.state_dict(batches=k)  # after k batches of the iteration under way
        other.load_state_dict(state)          # never raises for another setting
        other.images_done                     # images that the next iteration leaves out
        other.batches_left()                  # its number of batches; len(other) is a whole epoch

    ``images_done`` is 0 after :meth:`load_state_dict` if the epoch has to start again, because the
    order is another one: the seed, the number of images or their repetition differs.

    ``split`` holds the images and ``train`` asks for random crops, flips and order; the other
    arguments are those of :func:`build_loaders`.
    """

    name: ClassVar[str]
    resizes: ClassVar[bool] = True  # whether images of all sizes become image_size squares
    image_size: tuple[int, int]  # height and width of the images of a batch

    def __init__(
        self,
        split: Split,
        *,
        train: bool,
        batch_size: int,
        image_size: int | None,
        device: torch.device,
        seed: int,
        workers: int = 2,
        loading: LoadingOptions | None = None,
        augmentation: AugmentationOptions | None = None,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        shard_id: int = 0,
        num_shards: int = 1,
    ) -> None:
        self.batch_size, self.num_images = batch_size, len(split)
        self._split, self._train, self._device = split, train, device
        self._seed, self._workers, self._loading = seed, workers, loading or LoadingOptions()
        self._shard_id, self._num_shards = shard_id, num_shards
        plain = AugmentationOptions()
        self._augmentation = augmentation if train and augmentation is not None else plain
        self._repeats = self._augmentation.repeated_augmentation
        self._erasing = Erasing(self._augmentation.erasing, mean, seed)
        self._epoch = 0
        self.images_done = 0

    @abstractmethod
    def _batches(self, epoch: int, samples: list[np.ndarray]) -> Iterable[tuple[Tensor, Tensor]]:
        """Yield NHWC images and labels for the batches of ``samples``, int64 [B] each.

        Sample s is image s // ``self._repeats``.
        """

    def __len__(self) -> int:
        """Return the number of batches per epoch, on this rank."""
        return self._num_batches(self.num_images)

    def batches_left(self) -> int:
        """Return the number of batches of the next iteration, on this rank."""
        return self._num_batches(self.num_images - self.images_done)

    def _num_batches(self, images: int) -> int:
        if self._train:
            return images // self._num_shards // self.batch_size
        return -(-len(range(self._shard_id, images, self._num_shards)) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of one epoch, or what is left of it after ``load_state_dict``.

        Raises:
            UserError: an image cannot be read or decoded; it is named.
        """
        order, size, epoch = np.arange(self.num_images), self.batch_size, self._epoch
        if self._train:
            order = self._split.shuffled(np.random.default_rng([self._seed, epoch]))
            order = repeated(order, self._repeats)
        order = order[self.images_done :][self._shard_id :: self._num_shards]
        samples = [order[size * i : size * (i + 1)] for i in range(self.batches_left())]
        batches = zip(self._batches(epoch, samples), samples, strict=True)
        for (images, labels), numbers in batches:
            self._erasing(images, epoch, numbers, self.num_images * self._repeats)
            yield images.permute(0, 3, 1, 2), labels
        self._epoch, self.images_done = epoch + 1, 0

    def state_dict(self, batches: int = 0) -> dict[str, Any]:
        """Return the place in the order of images, of plain numbers.

        Args:
            batches: batches of the iteration under way that count as done, on each rank. The
                caller knows how many it has trained on; the loader is ahead of that.
        """
        done = self.images_done + batches * self.batch_size * self._num_shards
        return {**self._order_settings(), "epoch": self._epoch, "images_done": done}

    def _order_settings(self) -> dict[str, int]:
        """Return what the order of an epoch depends on."""
        return {"seed": self._seed, "num_images": self.num_images, "repeats": self._repeats}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the place of ``state``, saved with any number of ranks and batch size.

        With another seed, number of images or number of repetitions, the epoch starts again:
        ``images_done`` is 0.
        """
        self._epoch = state["epoch"]
        same_order = all(state[name] == value for name, value in self._order_settings().items())
        self.images_done = state["images_done"] if same_order else 0


class SquareLoader(EpochLoader):
    """A loader that crops and resizes each image to a square of ``image_size`` pixels.

    In validation, the short side is resized to ``resize`` pixels before; see
    :func:`~sprout_fast.data.loaders.augmentation.validation_view`.
    """

    def __init__(
        self, split: Split, *, image_size: int | None, resize: int | None = None, **options: Any
    ) -> None:
        super().__init__(split, image_size=image_size, **options)
        if image_size is None or image_size < 1:
            raise UserError(
                f"{image_size}: expected the side of the images, in pixels", option="image_size"
            )
        self.image_size = (image_size, image_size)
        # Not a method, since the torch loader's worker processes need it without the loader.
        self._view = partial(_view, self._train, image_size, resize, self._seed)


def _view(
    train: bool,
    image_size: int,
    resize: int | None,
    seed: int,
    height: int,
    width: int,
    epoch: int,
    sample: int,
) -> View:
    if not train:
        return validation_view(height, width, image_size, resize)
    random = np.random.default_rng([seed, epoch, sample])
    view = training_view(height, width, image_size, random)
    return view._replace(draw=int(random.integers(2**63)))


#: Loaders by name.
LOADERS: Registry[type[EpochLoader]] = Registry("loader", "sprout_fast.data.loaders")


@dataclass(frozen=True)
class Loaders:
    """The training and the validation loader of a data set."""

    train: Loader
    val: Loader
    classes: list[str]  #: Names of the K classes, in the order of the labels.
    description: str  #: One line for the log.


def _validation_size(
    kind: type[EpochLoader], image_size: int | None, val_image_size: int | None, resize: int | None
) -> dict[str, Any]:
    """Return the options of the validation loader that differ from those of training, checked."""
    side = val_image_size or image_size
    if not kind.resizes:
        for option, value in (("val_image_size", val_image_size), ("val_resize", resize)):
            if value is not None:
                reason = f"the {kind.name} loader uses images as they are"
                raise UserError(f"{value}: {reason}", option=option)
        return {}
    if resize is not None and side is not None and resize < side:
        raise UserError(f"{resize}: is smaller than the crop of {side} pixels", option="val_resize")
    return {"image_size": side, "resize": resize}


def default_loader() -> Literal["dali", "torch"]:
    """Return ``"dali"`` if DALI is installed, else ``"torch"``."""
    return "dali" if has_dali() else "torch"


def build_loaders(
    data: str | Path,
    *,
    listing: Listing | None = None,
    loader: LoaderName,
    batch_size: int,
    image_size: int | None = None,
    val_image_size: int | None = None,
    val_resize: int | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    workers: int = 2,
    loading: LoadingOptions | None = None,
    augmentation: AugmentationOptions | None = None,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    limit_train: int | None = None,
    shard_id: int = 0,
    num_shards: int = 1,
) -> Loaders:
    """Build the training and the validation loader of a data set.

    Args:
        data: what :func:`~sprout_fast.data.scan` accepts.
        listing: the result of ``scan(data)``, if at hand.
        loader: ``"dali"`` or ``"torch"`` to read files batch by batch; ``"memory"`` to hold small
            images of one size on ``device``.
        batch_size: images per batch, on this rank.
        image_size: side of the square images; optional for ``"memory"``, which uses images as they
            are and checks their size.
        val_image_size: side of the validation images, if it differs.
        val_resize: length of the short side of validation images before their center is cropped;
            256/224 of their side by default.
        device: where the batches are wanted.
        seed: seed of the order and the augmentation, and of ``limit_train``'s choice.
        workers: decoding threads (DALI) or processes (torch).
        loading: the other options of reading and decoding.
        augmentation: how training images are varied besides by random crops and flips.
        mean: color of what is erased of them, in [0, 1].
        limit_train: training images to use, a :func:`~sprout_fast.data.subsets.balanced_subset`;
            all by default.
        shard_id: this rank, in [0, ``num_shards``).
        num_shards: number of ranks that share the data set.

    Raises:
        UserError: the data set is missing, empty or inconsistent, a rank's share of it is smaller
            than a batch, the loader is unknown or not installed, or an option is out of range or
            none of the loader's.
    """
    kind = LOADERS.look_up(loader)
    if limit_train is not None and limit_train < 1:
        raise UserError(f"{limit_train}: expected 1 or more", option="limit_train")
    listing, shown = listing or scan(data), printable(data)
    train_split, total = listing.train, len(listing.train)
    if limit_train is not None:
        train_split = train_split.subset(balanced_subset(train_split.labels, limit_train, seed))
    train_size, val_size = len(train_split), len(listing.val)
    if (share := train_size // num_shards) < batch_size:
        images = f"{share} images" + (" per rank" if num_shards > 1 else "")
        raise UserError(
            f"{batch_size}: larger than the training set of {shown} ({images})", option="batch_size"
        )
    if val_size < num_shards:
        raise UserError(f"{shown}: {val_size} validation images, fewer than {num_shards} ranks")
    common: dict[str, Any] = {"batch_size": batch_size, "image_size": image_size, "seed": seed}
    loading = loading or LoadingOptions()
    loading.check_loading()
    augmentation = augmentation or AugmentationOptions()
    augmentation.check_augmentation()
    device = torch.device(device)
    if loading.decode == "gpu" and (loader != "dali" or device.type == "cpu"):
        reason = f"loader dali decodes on a GPU, on device cuda; got {loader} on {device.type}"
        raise UserError(f"gpu: {reason}", option="decode")
    common |= {"device": device, "workers": workers, "loading": loading}
    common |= {"shard_id": shard_id, "num_shards": num_shards}
    for_val = _validation_size(kind, image_size, val_image_size, val_resize)
    if not kind.resizes and augmentation.auto_augment != "none":
        reason = "loaders dali and torch have it, loader memory has not"
        raise UserError(f"{augmentation.auto_augment}: {reason}", option="auto_augment")
    train = kind(train_split, train=True, augmentation=augmentation, mean=mean, **common)
    val = kind(listing.val, train=False, **common | for_val)
    if not kind.resizes and val.image_size != train.image_size:
        (height, width), (rows, columns) = val.image_size, train.image_size
        raise UserError(
            f"{shown}: validation images have {width} x {height} pixels, training images "
            f"{columns} x {rows}; expected one size"
        )
    count = f"{train_size:,} of {total:,}" if train_size < total else f"{total:,}"
    description = (
        f"{listing.layout}: {count} training and {val_size:,} validation images "
        f"of {len(listing.classes)} classes, loader {loader}"
    )
    return Loaders(train, val, listing.classes, description)
