"""Which of the paper's numbers compare with an evaluation, and the measured counterparts."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

from sprout_fast.evaluation.recorder import AccuracyRecord
from sprout_fast.evaluation.results import Results
from sprout_fast.paper import CIFAR10, IMAGENET, VGG, WRN


def dataset_like(results: Results) -> str:
    """Return the paper's data set to compare with, judged by the number of classes alone."""
    return IMAGENET if results.subject.num_classes >= 1000 else CIFAR10


def network_like(results: Results) -> str:
    """Return the paper's network to compare with, among those trained on that data set."""
    arch = str(results.subject.config.get("arch") or results.subject.name).lower()
    if dataset_like(results) == IMAGENET:
        return "ResNet-152" if "152" in arch else "ResNet-50"
    return VGG if "vgg" in arch else WRN


@dataclass(frozen=True)
class Measured:
    """A measured accuracy in [0,1], or the mean of a column, with its 95 % interval."""

    value: float
    interval: tuple[float, float]


def measured(results: Results, source: str | None) -> Measured | None:
    """Return the counterpart of a column of a :class:`~sprout_fast.paper.PublishedTable`.

    Args:
        results: the evaluation.
        source: the name of a measurement for its accuracy, or ``"NAME: COLUMN"`` for the mean of
            one of its columns, with the interval of the normal distribution.

    Returns:
        The number, or None if it was not measured.
    """
    if source is None:
        return None
    name, _, column = source.partition(": ")
    record = results.records.get(name)
    if record is None:
        return None
    if not column:
        if not isinstance(record, AccuracyRecord):
            return None
        return Measured(record.accuracy.top1, record.accuracy.interval)
    values = record.columns.get(column)
    if values is None or not (values := values.double()[values.isfinite()]).numel():
        return None
    mean = values.mean().item()
    half = 0.0
    if len(values) > 1:
        half = NormalDist().inv_cdf(0.975) * (values.std() / len(values) ** 0.5).item()
    return Measured(mean, (mean - half, mean + half))
