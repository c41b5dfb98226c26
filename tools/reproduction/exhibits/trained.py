"""The models that the paper compares, and cells from its tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reproduction.datasets import CIFAR, DataSet
from reproduction.exhibits.base import (
    Cell,
    Measured,
    Source,
    Timed,
    accuracy,
    mean_of,
    paper_measurement,
)
from reproduction.scale import Scale
from reproduction.training import Training
from sprout_fast.evaluation.measurements import AttackMeasurement, Measurement
from sprout_fast.paper import METHOD_NAMES, PublishedTable, published

TRAINING_CHOSEN = [
    "one run with one seed, measured after the last epoch (the authors' code keeps the epoch with"
    " the best accuracy under PGD-5 on the test images)",
    "SPROUT: recipe paper.yaml, initialized from the natural model's last epoch unless stated"
    " otherwise, with a tenth of the learning rate that random weights have; beta is initialized"
    " from U(0, 10/K), and its rate is 1/(256 K) per image, times the learning rate's fraction of"
    " its peak",
]
BASELINES_CHOSEN = [
    "adversarial training and TRADES have the options of their own papers, and the trainer's"
    " default schedule, as the natural model has"
]
#: What the paper did on ImageNet, in the notes of the tables that it concerns.
IMAGENET_TIMES = published(None, "ResNet-152")


def compared(scale: Scale, network: str) -> dict[str, Training]:
    """Return the compared trainings by method; SPROUT is initialized from the natural model."""
    natural = scale.train(network, "natural")
    return {
        "natural": natural,
        "pgd_at": scale.train(network, "pgd_at"),
        "trades": scale.train(network, "trades"),
        "sprout": sprout(scale, network, natural),
    }


def sprout(
    scale: Scale,
    network: str,
    start: Training | None,
    dataset: DataSet = CIFAR,
    **options: Any,
) -> Training:
    """Return a training by SPROUT with the paper's recipe."""
    return scale.train(network, "sprout", dataset=dataset, recipe="paper", start=start, **options)


def grid(
    scale: Scale,
    table: PublishedTable,
    trained: Mapping[str, Training],
    *,
    arch: str = "",
    label: str = "",
    dataset: DataSet = CIFAR,
) -> list[Cell]:
    """Return the cells of one of the paper's tables.

    Args:
        scale: scale of the measurements.
        table: the paper's table.
        trained: trainings by the table's row names.
        arch: network to time for a column of seconds.
        label: prefix of all row names.
        dataset: data set to measure on.
    """

    def source(method: str, what: str | None) -> Source:
        if what is None:
            return Timed(arch, method)
        name, _, column = what.partition(": ")
        read = mean_of(column) if column else accuracy
        return Measured(trained[method], paper_measurement(scale, name, dataset), read)

    return [
        Cell(f"{label} {METHOD_NAMES.get(row, row)}".strip(), column, source(row, what), number)
        for row, numbers in table.rows.items()
        for (column, what), number in zip(table.columns.items(), numbers, strict=True)
    ]


def steps_of(measurement: Measurement) -> int:
    """Return the number of steps that an attack makes."""
    assert isinstance(measurement, AttackMeasurement), measurement.name
    return measurement.options["steps"]


def notes_of(*tables: PublishedTable) -> list[str]:
    """Return the notes of the paper's tables, e.g. on contradictions between them."""
    return [f"{table.network}, {table.title}: {note}" for table in tables for note in table.notes]
