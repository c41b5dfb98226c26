"""What a data set consists of: its class names and, for each split, where the samples lie."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from sprout_fast.errors import UserError


@dataclass(frozen=True)
class FileSplit:
    """Image files and their labels: one entry of `labels`, in [0, K), for each of `paths`."""

    paths: list[str]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.paths)

    def per_label(self) -> Counter[int]:
        """How many samples each label has."""
        return Counter(self.labels)


@dataclass(frozen=True)
class TarSplit:
    """WebDataset tars, their DALI index files, and the distinct contents of their ``.cls`` files.

    `label_of` gives each content's label in [0, K); `counts` how many samples have it.
    """

    paths: list[str]
    index_paths: list[str]
    label_of: dict[bytes, int]
    counts: Counter[bytes]

    def __len__(self) -> int:
        return self.counts.total()

    def per_label(self) -> Counter[int]:
        """How many samples each label has."""
        totals: Counter[int] = Counter()
        for content, count in self.counts.items():
            totals[self.label_of[content]] += count
        return totals


@dataclass(frozen=True)
class Listing:
    """A whole data set. `layout` says in a few words how it was found."""

    classes: list[str]
    train: FileSplit | TarSplit
    val: FileSplit | TarSplit
    layout: str


def check_val_classes(val: Counter[str], train: Counter[str], where: str) -> None:
    """Raise `UserError`, naming the first few, where `val` has classes that `train` lacks."""
    extra = sorted(set(val) - set(train))
    if extra:
        named = ", ".join(extra[:3]) + (f" and {len(extra) - 3} more" if len(extra) > 3 else "")
        raise UserError(
            f"{where}: class {named} in val has no training images; "
            "val's classes must be among train's"
        )


def check_shares(
    data: object, num_train: int, num_val: int, *, batch_size: int, num_shards: int
) -> None:
    """Raise `UserError` where a rank would get no batch of the images of `data`."""
    share = num_train // num_shards
    if share < batch_size:
        ranks = f" for each of {num_shards} ranks" if num_shards > 1 else ""
        raise UserError(
            f"--batch-size {batch_size}: larger than the training set of {data}, "
            f"which has {share} images{ranks}"
        )
    if num_val < num_shards:
        raise UserError(f"{data}: {num_val} validation images for {num_shards} ranks")
