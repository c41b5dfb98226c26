"""A gallery of images, before and after attacks."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import NamedTuple

import matplotlib.image
import torch
from torch import Tensor

from sprout_fast.evaluation.recorder import AccuracyRecord
from sprout_fast.evaluation.report.plots.base import strongest_of_each_kind
from sprout_fast.evaluation.results import Results

_ATTACKS = 4


class Attacked(NamedTuple):
    """An image under one attack. Images are PNG files."""

    image: bytes
    difference: bytes  # from the clean image, scaled, around gray
    predicted: str
    misclassified: bool


class Column(NamedTuple):
    """One attack: its name and the factor on the differences."""

    name: str
    factor: int


class Row(NamedTuple):
    """One image."""

    number: int  # its index among the images
    label: str
    image: bytes
    attacked: list[Attacked | None]  # None if an earlier attack of the cascade had succeeded


class Gallery(NamedTuple):
    """Images by attacks."""

    columns: list[Column]
    rows: list[Row]


def gallery_of(results: Results) -> Gallery | None:
    """Return images under the strongest attacks of up to four kinds; None if there are none."""
    if results.images.shape[1] not in (1, 3):
        return None
    records = [one for one in strongest_of_each_kind(results) if len(one.gallery) > 0][:_ATTACKS]
    if not records:
        return None
    images = {
        row: _unit(results.images[row])
        for row in sorted({row for record in records for row in record.gallery.tolist()})
    }
    names = results.subject.class_names

    def name_of(label: int) -> str:
        return f"class {label}" if names is None else names[label]

    rows = {
        row: Row(row, name_of(int(results.labels[row])), _png(image), [])
        for row, image in images.items()
    }
    columns = []
    for record in records:
        attacked, factor = _attacked(record, images, name_of)
        columns.append(Column(record.name, factor))
        for number, row in rows.items():
            row.attacked.append(attacked.get(number))
    return Gallery(columns, list(rows.values()))


def _attacked(
    record: AccuracyRecord, clean: dict[int, Tensor], name_of: Callable[[int], str]
) -> tuple[dict[int, Attacked], int]:
    """Return a record's images by their index, and the factor on their differences."""
    assert record.adversarial is not None  # since its gallery is not empty
    found = dict(zip(record.gallery.tolist(), record.adversarial.float(), strict=True))
    labels = dict(zip(record.rows.tolist(), record.columns["predicted"].tolist(), strict=True))
    differences = {row: image - clean[row] for row, image in found.items()}
    largest = max(one.abs().max().item() for one in differences.values())
    factor = max(1, int(0.5 / largest)) if largest > 0 else 1
    attacked = {
        row: Attacked(
            _png(image),
            _png(0.5 + factor * differences[row]),
            name_of(labels[row]),
            bool(record.misclassified[row]),
        )
        for row, image in found.items()
    }
    return attacked, factor


def _unit(image: Tensor) -> Tensor:
    return image.float() / 255 if image.dtype == torch.uint8 else image.float()


def _png(image: Tensor) -> bytes:
    """Encode an image [C,H,W], with C of 1 or 3, as a PNG file; values are clipped to [0,1]."""
    pixels = image.expand(3, -1, -1).permute(1, 2, 0).clamp(0, 1)
    buffer = io.BytesIO()
    array = (255 * pixels).round().to(torch.uint8).contiguous().numpy()
    matplotlib.image.imsave(buffer, array, format="png")
    return buffer.getvalue()
