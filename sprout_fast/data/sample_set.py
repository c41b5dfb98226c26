"""A small generated image data set: JPEG files of ten classes in ImageNet's folder layout.

An image shows one large object on a cluttered background. Each of five hues belongs to two classes
that differ in shape or texture, and the clutter has all hues: color alone separates half of the
classes at best, and a small ResNet learns the rest in a few hundred steps.
"""

from __future__ import annotations

import colorsys
import json
import math
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from sprout_fast.data.names import printable
from sprout_fast.errors import UserError

_VERSION = 1  # increase it when the images change, so that older sets are regenerated
_RECORD = "sample_set.json"
_Mask = Callable[[np.ndarray, np.ndarray], np.ndarray]

# Masks over object coordinates (u, v), in which the object's radius is 1.
_SHAPES: dict[str, _Mask] = {
    "disc": lambda u, v: u**2 + v**2 < 1,
    "ring": lambda u, v: (u**2 + v**2 < 1) & (u**2 + v**2 > 0.3),
    "square": lambda u, v: np.maximum(abs(u), abs(v)) < 0.8,
    "cross": lambda u, v: (np.minimum(abs(u), abs(v)) < 0.3) & (np.maximum(abs(u), abs(v)) < 1),
    "triangle": lambda u, v: (v < 0.6) & (v > 1.9 * abs(u) - 1),
    "flower": lambda u, v: np.hypot(u, v) < 0.65 + 0.35 * np.cos(5 * np.arctan2(v, u)),
}
# Where an object shows its second, contrasting shade.
_TEXTURES: dict[str, _Mask] = {
    "plain": lambda u, v: np.zeros(u.shape, dtype=bool),
    "stripes": lambda u, v: np.sin(12 * u) > 0,
    "checks": lambda u, v: np.sin(9 * u) * np.sin(9 * v) > 0,
    "dots": lambda u, v: (np.cos(12 * u) + np.cos(12 * v)) > 0.7,
}
# class: hue in degrees, shape, texture
_CLASSES: dict[str, tuple[float, str, str]] = {
    "blue_checks": (220, "square", "checks"),
    "blue_disc": (220, "disc", "plain"),
    "green_ring": (120, "ring", "plain"),
    "green_stripes": (120, "square", "stripes"),
    "purple_dots": (290, "disc", "dots"),
    "purple_flower": (290, "flower", "plain"),
    "red_cross": (0, "cross", "plain"),
    "red_stripes": (0, "disc", "stripes"),
    "yellow_checks": (55, "disc", "checks"),
    "yellow_triangle": (55, "triangle", "plain"),
}


def make_sample_set(
    root: Path, *, train_per_class: int = 100, val_per_class: int = 20, seed: int = 0
) -> Path:
    """Generate the sample set at ``root``, or reuse the one that exists.

    The files, ``train/<class>/*.JPEG`` and ``val/<class>/*.JPEG``, depend on the arguments alone.
    An interrupted run leaves no partial set; a set that was made with other arguments, or lacks
    files, is regenerated.

    Raises:
        UserError: ``root`` exists and is not a sample set, or cannot be written.

    >>> folder = Path(tempfile.mkdtemp(), "set")
    >>> sum(1 for _ in make_sample_set(folder, train_per_class=1).glob("train/*/*.JPEG"))
    10
    """
    root = Path(root)
    counts = {"train": train_per_class, "val": val_per_class}
    record = {"sample_set": _VERSION, "seed": seed, **counts}
    try:
        if _is_whole(root, record):
            return root
        if root.exists() and not (root / _RECORD).is_file() and any(root.iterdir()):
            message = "exists and is not a sample set; it was left unchanged"
            raise UserError(f"{printable(root)}: {message}")
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as partial:
            made = Path(partial) / root.name
            folders = [
                (made / split / name, count, [seed, index, label])
                for index, (split, count) in enumerate(counts.items())
                for label, name in enumerate(_CLASSES)
            ]
            with ThreadPoolExecutor(2) as pool:  # NumPy and the JPEG encoder release the GIL
                list(pool.map(_write_class, *zip(*folders, strict=True)))  # raises what they raise
            (made / _RECORD).write_text(json.dumps(record))
            if not _is_whole(root, record):  # another process may have been faster
                shutil.rmtree(root, ignore_errors=True)
                made.rename(root)
    except OSError as error:
        message = f"the sample set cannot be written ({error.strerror})"
        raise UserError(f"{printable(root)}: {message}") from error
    return root


def _write_class(folder: Path, count: int, seed: list[int]) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        rng = np.random.default_rng([*seed, number])
        image = draw_sample(folder.name, rng)
        quality = int(rng.integers(85, 96))
        image.save(folder / f"{number:05d}.JPEG", format="JPEG", quality=quality)


def _is_whole(root: Path, record: dict[str, int]) -> bool:
    try:
        if json.loads((root / _RECORD).read_text()) != record:
            return False
    except (OSError, ValueError):
        return False
    folders = [(split, root / split / name) for split in ("train", "val") for name in _CLASSES]
    return all(len(list(folder.glob("*.JPEG"))) == record[split] for split, folder in folders)


def draw_sample(name: str, rng: np.random.Generator) -> Image.Image:
    """Draw one image of class ``name``: RGB, its sides between 120 and 256 pixels."""
    hue, shape, texture = _CLASSES[name]
    width, height = int(rng.integers(160, 257)), int(rng.integers(120, 193))
    if rng.random() < 0.25:
        width, height = height, width
    picture = np.array(_background(width, height, rng), dtype=np.float32)

    radius = rng.uniform(0.32, 0.5) * min(width, height)
    x = rng.uniform(0.7 * radius, width - 0.7 * radius)
    y = rng.uniform(0.7 * radius, height - 0.7 * radius)
    angle = rng.uniform(-0.6, 0.6)
    columns = (np.arange(width, dtype=np.float32) - x) / radius
    rows = ((np.arange(height, dtype=np.float32) - y) / radius)[:, None]
    u = math.cos(angle) * columns + math.sin(angle) * rows
    v = math.cos(angle) * rows - math.sin(angle) * columns

    tint = rng.normal(hue, 9)
    light, dark = _color(tint, 0.75, 0.95, rng), _color(tint, 0.85, 0.4, rng)
    if rng.random() < 0.3:
        light, dark = dark, light
    inside, second = _SHAPES[shape](u, v), _TEXTURES[texture](u, v)
    picture[inside] = light
    picture[inside & second] = dark

    contrast, brightness = rng.uniform(0.75, 1.1), rng.uniform(-25, 25)
    picture = contrast * (picture - 128) + (128 + brightness)
    picture += rng.uniform(3, 14) * rng.standard_normal(picture.shape, dtype=np.float32)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def _color(hue: float, saturation: float, value: float, rng: np.random.Generator) -> np.ndarray:
    """Return RGB in [0, 255], close to the requested saturation and value in [0, 1]."""
    saturation, value = rng.normal((saturation, value), 0.08).clip(0.1, 1)
    return np.array(colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value), np.float32) * 255


def _background(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Draw smooth blotches of color with lines, polygons and ellipses of all hues over them."""
    blotches = rng.integers(40, 216, (4, 5, 3), dtype=np.uint8)
    image = Image.fromarray(blotches).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(4, 11))):
        center = rng.uniform((0, 0), (width, height))
        spread = rng.uniform(0.05, 0.22) * min(width, height)
        points = [tuple(point) for point in rng.normal(center, spread, (3, 2))]
        value = rng.uniform(0.3, 1)
        fill = tuple(map(int, _color(rng.uniform(0, 360), rng.uniform(0.1, 0.9), value, rng)))
        kind = rng.integers(3)
        if kind == 0:
            draw.line(points, fill, width=int(rng.integers(1, 7)))
        elif kind == 1:
            draw.polygon(points, fill)
        else:
            low, high = np.sort(points[:2], axis=0)
            draw.ellipse((*low, *high), fill)
    return image
