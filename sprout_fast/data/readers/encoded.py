"""Read the encoded images of a split one after the other, outside any loader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from sprout_fast.data.readers.listing import FileSplit, TarSplit
from sprout_fast.errors import UserError

# What may stand for a tar sample's image, after the first dot of its name.
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp")


def encoded_images(split: FileSplit | TarSplit) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the file content of each image of `split`; an unreadable one is empty."""
    if isinstance(split, FileSplit):
        for path in split.paths:
            try:
                yield path, Path(path).read_bytes()
            except OSError:
                yield path, b""
    else:
        for tar, index in zip(split.paths, split.index_paths, strict=True):
            yield from read_components(tar, index, IMAGE_EXTENSIONS)


def read_components(tar: str, index: str, extensions: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Yield, for each sample of `tar`, its name and the first of its components in `extensions`."""
    extensions = set(extensions)
    header, *lines = Path(index).read_text().splitlines()
    width = 4 if header.startswith("v1.2") else 3  # extension offset size [name]
    with open(tar, "rb") as archive:
        for number, line in enumerate(lines):
            fields = line.split()
            for at in range(0, len(fields), width):
                if fields[at] in extensions:
                    archive.seek(int(fields[at + 1]))
                    name = fields[at + 3] if width == 4 else f"sample {number}"
                    yield f"{tar}: {name}", archive.read(int(fields[at + 2]))
                    break
            else:
                raise UserError(
                    f"{tar}: sample {number} has no .{' or .'.join(sorted(extensions))}"
                )
