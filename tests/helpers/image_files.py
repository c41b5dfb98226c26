"""Small image files for tests of readers and loaders."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_STEPS = 5  # levels per channel


def color(number: int) -> tuple[int, int, int]:
    """Return a color that identifies image ``number``, in [0, 125), through crops and JPEG."""
    return tuple(25 + 50 * (number // _STEPS**i % _STEPS) for i in range(3))


def numbers(images: Tensor) -> list[int]:
    """Return the numbers of single-color images, uint8 [B, 3, H, W], black borders or not."""
    levels = ((images.flatten(2).median(2).values.float() - 25) / 50).round().long()
    return (levels * torch.tensor([1, _STEPS, _STEPS**2])).sum(1).tolist()


def plain_image(number: int, size: tuple[int, int] = (40, 32)) -> Image.Image:
    """Make an image of one color, that of its number."""
    return Image.new("RGB", size, color(number))


def noise_image(seed: int, size: tuple[int, int] = (90, 70)) -> Image.Image:
    """Make an image of smooth colored blotches, different for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def write_folder(root: Path, counts: dict[str, dict[str, int]], make=plain_image) -> Path:
    """Write ``root/<split>/<class>/<number>.jpg``; numbers run through each split from 0."""
    for split, classes in counts.items():
        number = 0
        for name, count in classes.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for _ in range(count):
                make(number).save(folder / f"{number:03d}.jpg", quality=95, subsampling=0)
                number += 1
    return root


def encode(image: Image.Image) -> bytes:
    """Encode ``image`` as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    """Write a tar of ``members``, from name to content, in this order; ``mode`` as in tarfile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path
