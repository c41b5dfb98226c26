"""The models that the paper compares: natural, adversarial training, TRADES, SPROUT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sprout_fast.evaluation.measurements import Measurement
from sprout_fast.reproduction.datasets import CIFAR, DataSet
from sprout_fast.reproduction.exhibits.base import METHOD_NAMES, Cell, Measured
from sprout_fast.reproduction.scale import Scale
from sprout_fast.reproduction.training import Training

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


def sprout(scale: Scale, network: str, start: Training | None, of: DataSet = CIFAR, **options):
    """By the paper's recipe."""
    return scale.train(network, "sprout", of=of, recipe="paper", start=start, **options)


def grid(
    label: str,
    trained: Mapping[str, Training],
    columns: Mapping[str, Measurement],
    published: Mapping[str, Sequence[float]],
) -> list[Cell]:
    """A row for each method that the paper has, a column for each measurement.

    Args:
        label: of the network, which opens each row.
        columns: what to measure, by the column's name.
        published: the paper's row, by method.
    """
    return [
        Cell(f"{label} {METHOD_NAMES[method]}", column, Measured(trained[method], what), number)
        for method, numbers in published.items()
        for (column, what), number in zip(columns.items(), numbers, strict=True)
    ]
