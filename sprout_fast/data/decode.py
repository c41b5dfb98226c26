"""Pixels of an image file: one contract, whichever loader or reader asks.

Every image becomes 8-bit RGB as Pillow decodes it:

* gray, palette and bilevel images are expanded; alpha channels are dropped;
* CMYK is converted by Pillow's formula (inverted if Adobe's marker says so);
* 16 bits are reduced to 8 by taking the high byte; other maximal values (PGM, PPM) are rescaled;
* EXIF and TIFF orientation tags are ignored, as torchvision ignores EXIF's;
* the first frame of an animation is used;
* floating-point, 32-bit integer and CIELAB images, and files that are cut off, are refused.

DALI decodes ordinary JPEG files, for which it gives the same bits in a quarter of the time
(:func:`jpeg_size` tells which). Everything else it receives decoded, as a PPM file.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from sprout_fast.data.names import printable
from sprout_fast.errors import UserError

_BATCH = 500
_EIGHT_BITS = {"1", "L", "P", "RGB", "RGBA", "RGBX", "LA", "PA", "CMYK", "YCbCr", "HSV"}
_KINDS = {"1": "gray", "L": "gray", "LA": "gray", "P": "palette", "PA": "palette"}
_SIXTEEN_BITS = {"I;16", "I;16B", "I;16L", "I;16N"}
# Pillow rotates TIFF images by their tag; what takes that back.
_UNDO_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


class Decoded(NamedTuple):
    """A decoded image."""

    pixels: np.ndarray  # uint8 [H, W, 3]
    conversions: tuple[str, ...]  # what was done beyond decoding, e.g. "CMYK to RGB"


def has_dali() -> bool:
    """Return whether NVIDIA DALI is installed."""
    try:
        return find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:  # no nvidia package at all
        return False


def decode(content: bytes, name: str) -> Decoded:
    """Decode the content of an image file.

    Raises:
        UserError: not an image, damaged, or of a mode that is refused; one line gives ``name``.

    >>> pixels, conversions = decode(as_ppm(np.zeros((2, 3, 3), np.uint8)), "black.ppm")
    >>> pixels.shape, conversions
    ((2, 3, 3), ())
    """
    if not content:
        raise UserError(f"{printable(name)}: empty file")
    try:
        with Image.open(BytesIO(content)) as image:
            return _convert(image)
    except UnidentifiedImageError:
        raise UserError(f"{printable(name)}: not an image") from None
    except UserError as error:
        raise UserError(f"{printable(name)}: {error}") from None
    # Decoders raise anything on damaged files, RuntimeError and NotImplementedError included.
    except Exception as error:
        reason = printable(error) or type(error).__name__
        raise UserError(f"{printable(name)}: damaged image ({reason})") from error


def _convert(image: Image.Image) -> Decoded:
    mode, conversions = image.mode, []
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation in _UNDO_ORIENTATION:
        conversions.append("orientation tag ignored")
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a JPEG with a preview
        conversions.append("first frame of an animation used")
    image.load()
    if image.format == "TIFF" and orientation in _UNDO_ORIENTATION:
        image = image.transpose(_UNDO_ORIENTATION[orientation])
    if mode in _SIXTEEN_BITS or (mode == "I" and image.format in ("PNG", "PPM")):
        gray = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        conversions.append("16-bit gray to RGB by the high byte")
        return Decoded(np.repeat(gray[:, :, None], 3, axis=2), tuple(conversions))
    if mode not in _EIGHT_BITS:
        raise UserError(f"image of mode {mode}, expected 8 or 16 bits per channel in gray or RGB")
    if not mode.startswith("RGB"):
        conversions.append(f"{_KINDS.get(mode, mode)} to RGB")
    # Without this Pillow warns on palettes that it drops the transparency.
    transparency = image.info.pop("transparency", None)
    if mode in ("RGBA", "LA", "PA") or transparency is not None:
        conversions.append("alpha channel dropped")
    return Decoded(np.asarray(image.convert("RGB")), tuple(conversions))


def as_ppm(pixels: np.ndarray) -> bytes:
    """Encode an image, uint8 [H, W, 3], as an uncompressed PPM file."""
    height, width, _ = pixels.shape
    return b"P6 %d %d 255\n" % (width, height) + pixels.tobytes()


def jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Return (height, width) of an ordinary, whole JPEG file, and None for anything else.

    Ordinary is what DALI and Pillow decode to the same pixels and refuse alike when damaged: 8
    bits, gray or YCbCr, within Pillow's limit on the number of pixels. Whole is what ends with
    JPEG's end marker: DALI decodes no more rows than a crop needs and would not notice a cut.
    """
    if content[:2] != b"\xff\xd8" or content[-2:] != b"\xff\xd9":
        return None
    at, adobe_rgb = 2, False
    while at + 18 <= len(content) and content[at] == 0xFF:
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4], "big")
        if marker in (0xC0, 0xC1, 0xC2):
            precision, components = content[at + 4], content[at + 9]
            height = int.from_bytes(content[at + 5 : at + 7], "big")
            width = int.from_bytes(content[at + 7 : at + 9], "big")
            is_rgb = adobe_rgb or content[at + 10 : at + 17 : 3] == b"RGB"
            ordinary = precision == 8 and (components == 1 or (components == 3 and not is_rgb))
            limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
            return (height, width) if ordinary and 0 < height * width <= limit else None
        # The scan, a frame of another kind, or markers that have no length.
        if marker == 0xDA or 0xC3 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return None
        if marker == 0xEE and content[at + 4 : at + 9] == b"Adobe":
            adobe_rgb = content[at + 15] == 0
        at += 2 + length
    return None


def decode_images(
    count: int, name: Callable[[int], str], read: Callable[[int], bytes]
) -> np.ndarray:
    """Decode ``count`` images; see :meth:`~sprout_fast.data.listing.Split.decode`."""
    by_dali = None
    if has_dali():
        import torch

        from sprout_fast.data.dali import WholeImages

        by_dali = WholeImages(_BATCH, torch.get_num_threads())
    images = np.empty((0, 0, 0, 3), np.uint8)
    for first in range(0, count, _BATCH):
        indices = range(first, min(first + _BATCH, count))
        contents = {index: read(index) for index in indices}
        decoded: dict[int, np.ndarray | None] = {}
        if by_dali is not None:
            ordinary = [index for index in indices if jpeg_size(contents[index]) is not None]
            pixels = by_dali([contents[index] for index in ordinary])
            decoded = dict(zip(ordinary, pixels, strict=True))
        for index in indices:
            if (pixels := decoded.get(index)) is None:
                pixels = decode(contents[index], name(index)).pixels
            if index == 0:
                images = np.empty((count, *pixels.shape), np.uint8)
            if pixels.shape != images.shape[1:]:
                height, width = images[0].shape[:2]
                raise UserError(
                    f"{printable(name(index))}: {pixels.shape[1]} x {pixels.shape[0]} pixels, but "
                    f"{printable(name(0))} has {width} x {height}; expected images of one size"
                )
            images[index] = pixels
    return images
