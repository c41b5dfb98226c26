"""Image files of every kind that people have, and what readers make of them."""

from __future__ import annotations

import io
import struct

import numpy as np
from helpers.image_files import noise_image, plain_image
from PIL import Image

from sprout_fast.data.decode import as_ppm

SIDE = 32
IMAGE = noise_image(5, (SIDE, SIDE))
RAMP = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) * 64  # 16 bits, to 65472


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def oriented(kind):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 270 degrees to display
    return saved(IMAGE, kind, exif=exif)


def without_adobe_marker(content):
    """The JPEG without its APP14 segment, by which decoders tell that CMYK is inverted."""
    at = content.index(b"\xff\xee")
    length = struct.unpack(">H", content[at + 2 : at + 4])[0]
    return content[:at] + content[at + 2 + length :]


RGB = np.asarray(IMAGE)
GRAY = np.repeat(np.asarray(IMAGE.convert("L"))[:, :, None], 3, axis=2)
CMYK = IMAGE.convert("CMYK")
HIGH_BYTE = np.repeat((RAMP >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
PGM_100 = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) % 101
RGBA = Image.merge("RGBA", (*IMAGE.split(), IMAGE.convert("L")))

# File content, expected pixels, largest difference, and what verify_data calls the conversion.
ACCEPTED = {
    "JPEG": (saved(IMAGE, "JPEG", quality=100, subsampling=0), RGB, 12, None),
    "progressive JPEG": (saved(IMAGE, "JPEG", quality=100, progressive=True), RGB, 80, None),
    "gray JPEG": (saved(IMAGE.convert("L"), "JPEG", quality=100), GRAY, 3, "gray to RGB"),
    "CMYK JPEG": (saved(CMYK, "JPEG", quality=100), RGB, 12, "CMYK to RGB"),
    "RGB JPEG": (saved(IMAGE, "JPEG", quality=100, keep_rgb=True), RGB, 6, None),
    "trailing bytes": (saved(IMAGE, "JPEG", quality=100, subsampling=0) + b"hello", RGB, 12, None),
    "EXIF orientation": (oriented("JPEG"), RGB, 80, "orientation tag ignored"),
    "TIFF orientation": (oriented("TIFF"), RGB, 0, "orientation tag ignored"),
    "PNG": (saved(IMAGE, "PNG"), RGB, 0, None),
    "alpha": (saved(RGBA, "PNG"), RGB, 0, "alpha channel dropped"),
    "gray alpha": (saved(RGBA.convert("LA"), "PNG"), GRAY, 0, "alpha channel dropped"),
    "palette": (
        saved(IMAGE.quantize(256), "PNG"),
        np.asarray(IMAGE.quantize(256).convert("RGB")),
        0,
        "palette to RGB",
    ),
    "bilevel": (
        saved(IMAGE.convert("1"), "PNG"),
        np.asarray(IMAGE.convert("1").convert("RGB")),
        0,
        "gray to RGB",
    ),
    "16-bit PNG": (saved(Image.fromarray(RAMP), "PNG"), HIGH_BYTE, 0, "16-bit gray to RGB"),
    "16-bit TIFF": (saved(Image.fromarray(RAMP), "TIFF"), HIGH_BYTE, 0, "16-bit gray to RGB"),
    "16-bit PGM": (
        b"P5 %d %d 65535\n" % (SIDE, SIDE) + RAMP.astype(">u2").tobytes(),
        HIGH_BYTE,
        0,
        "16-bit gray to RGB",
    ),
    "PGM of maxval 100": (
        b"P5 %d %d 100\n" % (SIDE, SIDE) + PGM_100.astype(np.uint8).tobytes(),
        np.repeat(np.round(PGM_100 / 100 * 255)[:, :, None], 3, axis=2),
        1,
        "gray to RGB",
    ),
    "PPM": (as_ppm(RGB), RGB, 0, None),
    "BMP": (saved(IMAGE, "BMP"), RGB, 0, None),
    "WebP": (saved(IMAGE, "WEBP", lossless=True), RGB, 0, None),
    "GIF": (
        saved(IMAGE.quantize(256), "GIF"),
        np.asarray(IMAGE.quantize(256).convert("RGB")),
        0,
        "palette to RGB",
    ),
    "animation": (
        saved(IMAGE, "PNG", save_all=True, append_images=[plain_image(3, (SIDE, SIDE))]),
        RGB,
        0,
        "first frame",
    ),
}
WHOLE = ACCEPTED["JPEG"][0]
PROGRESSIVE = ACCEPTED["progressive JPEG"][0]
REFUSED = {
    "float TIFF": (saved(Image.fromarray(RAMP.astype(np.float32)), "TIFF"), "mode F"),
    "32-bit TIFF": (saved(Image.fromarray(RAMP.astype(np.int32)), "TIFF"), "mode I"),
    "CIELAB TIFF": (saved(Image.new("LAB", (SIDE, SIDE)), "TIFF"), "mode LAB"),
    "text": (b"no image at all", "not an image"),
    "empty": (b"", "empty file"),
    "header": (WHOLE[:200], "image"),
    "cut by a byte": (WHOLE[:-1], "damaged image"),
    "cut at the tail": (WHOLE[:-40], "damaged image"),
    "cut in half": (WHOLE[: len(WHOLE) // 2], "damaged image"),
    "progressive, cut": (PROGRESSIVE[:-40], "damaged image"),
    "PNG, cut": (saved(IMAGE, "PNG")[:-200], "damaged image"),
    "BMP, cut": (saved(IMAGE, "BMP")[:-20], "damaged image"),
    # Decoders that raise something else than OSError or ValueError.
    "AVIF, damaged": (saved(IMAGE, "AVIF")[:-200], "damaged image|not an image"),
    "DDS, damaged": (b"DDS " + struct.pack("<31I", 124, *[7] * 30), "damaged image|not an image"),
    "BLP, damaged": (b"BLP2" + struct.pack("<4I", 7, 7, 7, 7) * 20, "damaged image|not an image"),
}


def folder_with(root, content):
    """Train and val of four images, of which the second has ``content``."""
    for split in ("train", "val"):
        (root / split / "a").mkdir(parents=True)
        for number in range(4):
            path = root / split / "a" / f"{number}.jpg"
            path.write_bytes(content if number == 1 else WHOLE)
    return root
