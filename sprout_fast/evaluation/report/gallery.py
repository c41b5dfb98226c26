"""Some images, as they are and as attacks changed them."""

from __future__ import annotations

import io
from dataclasses import dataclass

import matplotlib.image
import torch
from torch import Tensor

from sprout_fast.evaluation.report.plots.base import strongest_of_each_kind
from sprout_fast.evaluation.report.words import in_words
from sprout_fast.evaluation.results import Results

_ATTACKS = 4


@dataclass(frozen=True)
class Attacked:
    """An image under one attack. Images are PNG files."""

    image: bytes
    difference: bytes
    predicted: str
    fell: bool


@dataclass(frozen=True)
class Column:
    """One attack: its name, its options in words, and by what the differences are multiplied."""

    name: str
    words: str
    factor: int


@dataclass(frozen=True)
class Row:
    """One image: its place among the images, its class, itself, and what each attack made of it,
    None where a cascade had no need to attack it."""

    number: int
    label: str
    image: bytes
    attacked: list[Attacked | None]


@dataclass(frozen=True)
class Gallery:
    columns: list[Column]
    rows: list[Row]


def gallery_of(results: Results) -> Gallery | None:
    """Up to four attacks, each of another kind. None where no image can be shown."""
    if results.images.shape[1] not in (1, 3):
        return None
    records = [one for one in strongest_of_each_kind(results) if len(one.gallery) > 0][:_ATTACKS]
    if not records:
        return None
    shown = sorted({row for record in records for row in record.gallery.tolist()})
    clean = {row: _unit(results.images[row]) for row in shown}
    names = results.subject.class_names

    def name_of(label: int) -> str:
        return f"class {label}" if names is None else names[label]

    columns, cells = [], {row: [] for row in shown}
    for record in records:
        found = dict(zip(record.gallery.tolist(), record.adversarial, strict=True))
        predicted = dict(
            zip(record.rows.tolist(), record.columns["predicted"].tolist(), strict=True)
        )
        differences = {row: image.float() - clean[row] for row, image in found.items()}
        largest = max(one.abs().max().item() for one in differences.values())
        factor = max(1, int(0.5 / largest)) if largest > 0 else 1
        columns.append(Column(record.name, in_words(record.parameters), factor))
        for row in shown:
            cells[row].append(
                Attacked(
                    image=_png(found[row].float()),
                    difference=_png(0.5 + factor * differences[row]),
                    predicted=name_of(predicted[row]),
                    fell=bool(record.misclassified[row]),
                )
                if row in found
                else None
            )
    rows = [
        Row(row, name_of(int(results.labels[row])), _png(clean[row]), cells[row]) for row in shown
    ]
    return Gallery(columns, rows)


def _unit(image: Tensor) -> Tensor:
    return image.float() / 255 if image.dtype == torch.uint8 else image.float()


def _png(image: Tensor) -> bytes:
    """[C,H,W] in [0,1] (cut to it), C 1 or 3."""
    pixels = image.expand(3, -1, -1).permute(1, 2, 0).clamp(0, 1)
    buffer = io.BytesIO()
    array = (255 * pixels).round().to(torch.uint8).contiguous().numpy()
    matplotlib.image.imsave(buffer, array, format="png")
    return buffer.getvalue()
