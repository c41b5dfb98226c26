"""A gallery of images, before and after attacks."""

from __future__ import annotations

import io
from dataclasses import dataclass

import matplotlib.image
import torch
from torch import Tensor

from sprout_fast.evaluation.report.plots.base import strongest_of_each_kind
from sprout_fast.evaluation.report.wording import describe_attack
from sprout_fast.evaluation.results import Results

_ATTACKS = 4


@dataclass(frozen=True)
class Attacked:
    """An image under one attack.

    Attributes:
        image: PNG file of the attacked image.
        difference: PNG file of the scaled difference from the clean image, around gray.
        predicted: name of the predicted class.
        misclassified: whether the attack succeeded.
    """

    image: bytes
    difference: bytes
    predicted: str
    misclassified: bool


@dataclass(frozen=True)
class Column:
    """One attack: its name, its description, and the factor on the differences."""

    name: str
    description: str
    factor: int


@dataclass(frozen=True)
class Row:
    """One image.

    Attributes:
        number: its index among the images.
        label: name of its class.
        image: PNG file of the clean image.
        attacked: one result per attack, None if an earlier attack of the cascade had succeeded.
    """

    number: int
    label: str
    image: bytes
    attacked: list[Attacked | None]


@dataclass(frozen=True)
class Gallery:
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
    shown = sorted({row for record in records for row in record.gallery.tolist()})
    clean = {row: _unit(results.images[row]) for row in shown}
    names = results.subject.class_names

    def name_of(label: int) -> str:
        return f"class {label}" if names is None else names[label]

    columns: list[Column] = []
    cells: dict[int, list[Attacked | None]] = {row: [] for row in shown}
    for record in records:
        assert record.adversarial is not None  # since its gallery is not empty
        found = dict(zip(record.gallery.tolist(), record.adversarial, strict=True))
        predicted = dict(
            zip(record.rows.tolist(), record.columns["predicted"].tolist(), strict=True)
        )
        differences = {row: image.float() - clean[row] for row, image in found.items()}
        largest = max(one.abs().max().item() for one in differences.values())
        factor = max(1, int(0.5 / largest)) if largest > 0 else 1
        columns.append(Column(record.name, describe_attack(record.parameters), factor))
        for row in shown:
            cells[row].append(
                Attacked(
                    image=_png(found[row].float()),
                    difference=_png(0.5 + factor * differences[row]),
                    predicted=name_of(predicted[row]),
                    misclassified=bool(record.misclassified[row]),
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
    """Encode an image [C,H,W], with C of 1 or 3, as a PNG file; values are clipped to [0,1]."""
    pixels = image.expand(3, -1, -1).permute(1, 2, 0).clamp(0, 1)
    buffer = io.BytesIO()
    array = (255 * pixels).round().to(torch.uint8).contiguous().numpy()
    matplotlib.image.imsave(buffer, array, format="png")
    return buffer.getvalue()
