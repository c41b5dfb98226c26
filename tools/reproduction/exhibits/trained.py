"""The models that the paper compares: natural, adversarial training, TRADES, SPROUT."""

from __future__ import annotations

from collections.abc import Mapping

from reproduction.datasets import CIFAR, DataSet
from reproduction.exhibits.base import (
    Cell,
    Measured,
    Source,
    Timed,
    accuracy,
    mean_of,
    of_protocol,
)
from reproduction.scale import Scale
from reproduction.training import Training
from sprout_fast.paper import METHOD_NAMES, PublishedTable

TRAINING_CHOSEN = [
    "one run of one seed, measured at its last epoch (the authors' code keeps the epoch that is"
    " best under PGD-5 on the test images)",
    "SPROUT: recipe paper.yaml, from the natural model's last epoch, with a tenth of its learning"
    " rate; beta starts from U(0, 10/K), its step size is 0.5/K",
]
BASELINES_CHOSEN = [
    "adversarial training: PGD-7 at eps 8/255, step 2/255; TRADES: eps 0.031, 10 steps of 0.007,"
    " weight 6; the natural model and both: SGD at 0.1 for 128 images, a cosine",
]
IMAGENET_CHOSEN = [
    "90 epochs for each model, random crops of 224 pixels, SGD at 0.1 for 256 images",
    "PGD-20 for the random target, steps of eps/5, over the whole validation set at scale 1",
    "the natural model is trained here too; no published weights are read",
]


def compared(scale: Scale, network: str) -> dict[str, Training]:
    """By method; SPROUT starts from the natural model."""
    natural = scale.train(network, "natural")
    return {
        "natural": natural,
        "pgd_at": scale.train(network, "pgd_at"),
        "trades": scale.train(network, "trades"),
        "sprout": sprout(scale, network, natural),
    }


def sprout(
    scale: Scale, network: str, start: Training | None, of: DataSet = CIFAR, **options
) -> Training:
    """By the paper's recipe."""
    return scale.train(network, "sprout", of=of, recipe="paper", start=start, **options)


def grid(
    scale: Scale,
    table: PublishedTable,
    trained: Mapping[str, Training],
    *,
    arch: str = "",
    label: str = "",
    of: DataSet = CIFAR,
) -> list[Cell]:
    """The cells of one of the paper's tables: its rows, its columns, its numbers.

    Args:
        trained: by the table's names of its rows.
        arch: whose training steps are timed for a column of seconds.
        label: opens each row.
    """

    def source(method: str, what: str | None) -> Source:
        if what is None:
            return Timed(arch, method)
        name, _, column = what.partition(": ")
        read = mean_of(column) if column else accuracy
        return Measured(trained[method], of_protocol(scale, name, of), read)

    return [
        Cell(f"{label} {METHOD_NAMES.get(row, row)}".strip(), column, source(row, what), number)
        for row, numbers in table.rows.items()
        for (column, what), number in zip(table.columns.items(), numbers, strict=True)
    ]


def notes_of(*tables: PublishedTable) -> list[str]:
    """What the paper's tables do not agree on."""
    return [f"{table.network}, {table.title}: {note}" for table in tables for note in table.notes]
