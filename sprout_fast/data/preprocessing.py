"""Preprocessing of validation images, with the choices that benchmarks make differently."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sprout_fast.data.decode import decode
from sprout_fast.errors import UserError

Interpolation = Literal["nearest", "bilinear", "bicubic"]


@dataclass(frozen=True)
class Preprocessing:
    """Resize the short side of an image, then crop its center, as torchvision does.

    Args:
        crop: side of the square result in pixels.
        resize: length of the short side before the crop, at least ``crop``. Default: 256/224 of
            it, as is usual on ImageNet.
        interpolation: of the resize.
        antialias: filter before shrinking, which Pillow always does. Without it, bilinear and
            bicubic interpolation skip pixels, as in tensor code before torchvision 0.17.

    Raises:
        UserError: the resized image would be smaller than the crop.

    >>> Preprocessing(224)(torch.zeros(3, 300, 400, dtype=torch.uint8)).shape
    torch.Size([3, 224, 224])
    """

    crop: int
    resize: int | None = None
    interpolation: Interpolation = "bilinear"
    antialias: bool = True

    def __post_init__(self) -> None:
        if self.resize is not None and self.resize < self.crop:
            raise UserError(
                f"{self.resize}: is smaller than the crop of {self.crop} pixels", option="resize"
            )

    def __call__(self, image: Tensor) -> Tensor:
        """Return the square of an image, uint8 [3, H, W] to uint8 [3, crop, crop]."""
        from torchvision.transforms import v2  # the package works without torchvision

        side = self.resize or round(self.crop * 256 / 224)
        interpolation = v2.InterpolationMode(self.interpolation)
        image = v2.functional.resize(image, [side], interpolation, antialias=self.antialias)
        return v2.functional.center_crop(image, [self.crop, self.crop])

    def __str__(self) -> str:
        side = self.resize or round(self.crop * 256 / 224)
        filtered = "" if self.antialias else ", not antialiased"
        return f"short side {side}, {self.interpolation}{filtered}, center {self.crop}"


def preprocessed(
    count: int,
    read: Callable[[int], bytes],
    name: Callable[[int], str],
    transform: Callable[[Tensor], Tensor],
    workers: int,
) -> Tensor:
    """Read, decode and transform images in threads: uint8 [count, 3, H, W].

    Args:
        read: returns the content of an image file.
        name: returns its name, for messages.

    Raises:
        UserError: an image cannot be read or decoded, or has another size than the first.
    """

    def load(index: int) -> Tensor:
        pixels = decode(read(index), name(index)).pixels
        return transform(torch.tensor(pixels).permute(2, 0, 1))

    with ThreadPoolExecutor(workers) as threads:
        images = list(threads.map(load, range(count)))
    for index, image in enumerate(images):
        if image.shape != images[0].shape:
            sizes = ("x".join(map(str, one.shape[1:])) for one in (image, images[0]))
            raise UserError("{}: got {} pixels, expected {}".format(name(index), *sizes))
    return torch.stack(images)
