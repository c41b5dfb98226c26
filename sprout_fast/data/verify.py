"""Decode every image of a data set, to find the unreadable ones before a run does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from sprout_fast.data import has_dali, scan
from sprout_fast.data.readers.encoded import encoded_images
from sprout_fast.data.readers.listing import FileSplit, TarSplit

_CHUNK = 256  # encoded images held in memory at a time


@dataclass(frozen=True)
class SplitReport:
    """What one split holds.

    `per_class` counts its images by class name. `smallest` and `largest` are the (width, height)
    in pixels of the readable images of least and most area; None where none is readable.
    `unreadable` has one line ``<name>: <reason>`` for each image that cannot be decoded.
    """

    name: str
    num_images: int
    per_class: dict[str, int]
    smallest: tuple[int, int] | None
    largest: tuple[int, int] | None
    unreadable: list[str]


def verify(data: Path, *, workers: int = 2) -> Iterator[SplitReport]:
    """Decode all images of `data` whole, by PIL and, where installed, by DALI; yield each split.

    Args:
        data: what `build_loaders` takes.
        workers: decoding threads.

    Raises:
        UserError: the data set is missing, empty or inconsistent, as for `build_loaders`.
    """
    listing = scan(data)
    if listing.train is listing.val:
        yield _verify_split("train and val", listing.train, listing.classes, workers)
    else:
        yield _verify_split("train", listing.train, listing.classes, workers)
        yield _verify_split("val", listing.val, listing.classes, workers)


def _verify_split(
    name: str, split: FileSplit | TarSplit, classes: list[str], workers: int
) -> SplitReport:
    sizes: Counter[tuple[int, int]] = Counter()
    unreadable = []
    samples = encoded_images(split)
    with ThreadPoolExecutor(workers) as pool:  # PIL decodes outside the GIL
        while chunk := list(islice(samples, _CHUNK)):
            readable = []
            for sample, result in zip(chunk, pool.map(_decode, chunk), strict=True):
                if isinstance(result, str):
                    unreadable.append(f"{sample[0]}: {result}")
                else:
                    sizes[result] += 1
                    readable.append(sample)
            if has_dali():
                unreadable += _undecodable_by_dali(readable, workers)
    by_area = sorted(sizes, key=lambda size: size[0] * size[1])
    per_label = split.per_label()
    return SplitReport(
        name=name,
        num_images=len(split),
        per_class={name: per_label[label] for label, name in enumerate(classes)},
        smallest=by_area[0] if by_area else None,
        largest=by_area[-1] if by_area else None,
        unreadable=unreadable,
    )


def _decode(sample: tuple[str, bytes]) -> tuple[int, int] | str:
    """The image's size, or why PIL cannot decode it."""
    name, content = sample
    if not content:
        return "empty, or no permission to read it"
    try:
        with Image.open(BytesIO(content)) as image:
            image.load()
            return image.size
    except UnidentifiedImageError:
        return "not an image"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"damaged ({error})"


def _undecodable_by_dali(samples: list[tuple[str, bytes]], workers: int) -> Iterator[str]:
    from sprout_fast.data.loaders.probe import find_undecodable

    for name in find_undecodable(samples, whole=True, num_threads=workers):
        yield f"{name}: PIL can decode it, but DALI cannot"
