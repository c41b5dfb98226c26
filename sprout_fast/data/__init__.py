"""Image data sets and their loaders.

    build_loaders(data, loader="dali" | "torch", ...) -> Loaders
    build_memory_loaders(data, ...) -> Loaders            of small images, whole in memory

Batches are `(images, labels)`: images uint8 [B, 3, H, W], a channels-last view of NHWC memory,
never normalised; labels int64 [B].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from sprout_fast.data.readers.folder import scan_folder
from sprout_fast.data.readers.listing import FileSplit, Listing, check_shares
from sprout_fast.data.readers.webdataset import find_tars, scan_tars
from sprout_fast.errors import UserError


class Loader(Protocol):
    """What all loaders are; their docstrings say the details."""

    batch_size: int
    num_images: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...
    def __len__(self) -> int: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Loaders:
    """The two loaders of a data set. `description` is one line for the log."""

    train: Loader
    val: Loader
    classes: list[str]
    description: str


def default_loader() -> Literal["dali", "torch"]:
    """``"dali"`` where it is installed, else ``"torch"``."""
    return "dali" if has_dali() else "torch"


def scan(data: Path) -> Listing:
    """List a data set: WebDataset tars where `data` has some, else an image folder.

    Raises:
        UserError: as `scan_folder` and `scan_tars` do.
    """
    data = Path(data)
    return scan_tars(data) if any(find_tars(data)) else scan_folder(data)


def build_loaders(
    data: Path,
    *,
    loader: Literal["dali", "torch"],
    batch_size: int,
    image_size: int,
    device: torch.device,
    seed: int,
    workers: int = 2,
    shard_id: int = 0,
    num_shards: int = 1,
) -> Loaders:
    """Make the training and the validation loader of a data set.

    Args:
        data: an image folder in ImageNet's layout, or a folder of WebDataset tars (DALI alone).
        loader: ``"dali"``, or ``"torch"`` for torchvision's.
        batch_size: images in a batch, on this rank.
        image_size: side of the square images; validation resizes the short side to 256/224 of it.
        device: where the batches are wanted.
        seed: of the order of the images, their crops and their flips.
        workers: decoding threads (DALI) or processes (torch).
        shard_id: this rank, in [0, num_shards).
        num_shards: how many ranks share the data set.

    Raises:
        UserError: the data set is missing, empty or inconsistent, a rank's share of it is smaller
            than a batch, or the loader is unknown, not installed or cannot read it.
    """
    if loader not in ("dali", "torch"):
        raise UserError(f"--loader {loader}: no such loader; taken are dali and torch")
    if loader == "dali" and not has_dali():
        raise UserError(
            "--loader dali: NVIDIA DALI is not installed; "
            "`pip install nvidia-dali-cuda130` gets it, or take --loader torch"
        )
    listing = scan(data)
    check_shares(
        data, len(listing.train), len(listing.val), batch_size=batch_size, num_shards=num_shards
    )

    if loader == "dali":
        from sprout_fast.data.loaders.dali import DaliLoader as Kind
    elif isinstance(listing.train, FileSplit):
        from sprout_fast.data.loaders.torch import TorchLoader as Kind
    else:
        raise UserError(f"--loader torch: {data} holds WebDataset tars; take --loader dali")
    common = {
        "batch_size": batch_size,
        "image_size": image_size,
        "device": torch.device(device),
        "seed": seed,
        "workers": workers,
        "shard_id": shard_id,
        "num_shards": num_shards,
    }
    return Loaders(
        train=Kind(listing.train, train=True, **common),
        val=Kind(listing.val, train=False, **common),
        classes=listing.classes,
        description=(
            f"{listing.layout}: {len(listing.train):,} training and {len(listing.val):,} "
            f"validation images of {len(listing.classes)} classes, loader {loader}"
        ),
    )


def build_memory_loaders(
    data: Path,
    *,
    batch_size: int,
    device: torch.device,
    seed: int,
    limit_train: int | None = None,
    shard_id: int = 0,
    num_shards: int = 1,
) -> Loaders:
    """Make the loaders of a data set of small images, held on `device` whole, as uint8.

    Args:
        data: CIFAR-10 or CIFAR-100 in torchvision's format, an image folder, or a tar of one.
        batch_size: images in a batch, on this rank.
        device: where the images are held and the batches are made.
        seed: of the order of the images, their crops and their flips, and of what `limit_train`
            leaves.
        limit_train: take so many of the training images, equally many of each class as far as
            there are; all where it is None.
        shard_id: this rank, in [0, num_shards).
        num_shards: how many ranks share the data set.

    Raises:
        UserError: the data set is missing, empty or inconsistent, a file cannot be decoded or has
            another size than the others, or a rank's share is smaller than a batch.
    """
    from sprout_fast.data.loaders.memory import MemoryLoader
    from sprout_fast.data.readers.decoded import read_decoded

    decoded = read_decoded(Path(data), limit_train=limit_train, seed=seed)
    train, val = decoded.train, decoded.val
    check_shares(data, len(train), len(val), batch_size=batch_size, num_shards=num_shards)
    common = {
        "batch_size": batch_size,
        "device": torch.device(device),
        "seed": seed,
        "shard_id": shard_id,
        "num_shards": num_shards,
    }
    distinct = {id(split.images): split.images.nbytes for split in (train, val)}
    limited = "" if limit_train is None else f" (--limit-train {limit_train})"
    return Loaders(
        train=MemoryLoader(train.images, train.labels, train=True, **common),
        val=MemoryLoader(val.images, val.labels, train=False, **common),
        classes=decoded.classes,
        description=(
            f"{decoded.layout}: {len(train):,} training{limited} and {len(val):,} validation "
            f"images of {len(decoded.classes)} classes, in memory, uint8, "
            f"{sum(distinct.values()) / 1e6:.0f} MB"
        ),
    )


def has_dali() -> bool:
    """Whether NVIDIA DALI is installed."""
    try:
        return find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:  # no nvidia package at all
        return False
