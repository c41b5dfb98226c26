"""Which of the paper's numbers compare with an evaluation, and which of ours stands beside each."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

from sprout_fast.evaluation.results import Results
from sprout_fast.paper import CIFAR10, IMAGENET, VGG, WRN


def dataset_like(results: Results) -> str:
    """The paper's data set that compares, by the number of classes alone."""
    return IMAGENET if results.subject.num_classes >= 1000 else CIFAR10


def network_like(results: Results) -> str:
    """The paper's network that compares, on the data set that does."""
    arch = str(results.subject.config.get("arch") or results.subject.name).lower()
    if dataset_like(results) == IMAGENET:
        return "ResNet-152" if "152" in arch else "ResNet-50"
    return VGG if "vgg" in arch else WRN


@dataclass(frozen=True)
class Measured:
    """A number of ours with its 95 % interval: a fraction, or the mean of a column."""

    value: float
    interval: tuple[float, float]


def measured(results: Results, source: str | None) -> Measured | None:
    """Ours for a column of a `PublishedTable`; None where it was not measured.

    Args:
        source: a measurement's name, for the accuracy; "NAME: COLUMN", for a column's mean, whose
            interval is the normal one.
    """
    if source is None:
        return None
    name, _, column = source.partition(": ")
    record = results.records.get(name)
    if record is None:
        return None
    if not column:
        accuracy = record.accuracy
        return None if accuracy is None else Measured(accuracy.top1, accuracy.interval)
    values = record.columns.get(column)
    if values is None or not (values := values.double()[values.isfinite()]).numel():
        return None
    mean = values.mean().item()
    half = 0.0
    if len(values) > 1:
        half = NormalDist().inv_cdf(0.975) * (values.std() / len(values) ** 0.5).item()
    return Measured(mean, (mean - half, mean + half))
