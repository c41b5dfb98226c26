"""Which of the paper's numbers compare with an evaluation, and the measured counterparts."""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

from sprout_fast.evaluation.recorder import AccuracyRecord
from sprout_fast.evaluation.results import Results
from sprout_fast.paper import CIFAR10, IMAGENET, TABLES, VGG, WRN, PublishedTable

# Training times, and an ablation with the attacks of Table 2.
_LEFT_OUT = (6, 7)


def dataset_like(results: Results) -> str:
    """Return the paper's data set to compare with, judged by the number of classes alone."""
    return IMAGENET if results.subject.num_classes >= 1000 else CIFAR10


def network_like(results: Results) -> str:
    """Return the paper's network to compare with, among those trained on that data set."""
    arch = str(results.subject.config.get("arch") or results.subject.name).lower()
    if dataset_like(results) == IMAGENET:
        return "ResNet-152" if "152" in arch else "ResNet-50"
    return VGG if "vgg" in arch else WRN


class Measured(NamedTuple):
    """A measured accuracy in [0,1], or the mean of a column, with its 95 % interval."""

    value: float
    interval: tuple[float, float]


def measured(results: Results, source: str | None) -> Measured | None:
    """Return the counterpart of a column of the paper, or None if it was not measured.

    Args:
        results: the evaluation.
        source: see ``columns`` of :class:`~sprout_fast.paper.PublishedTable`. The interval of a
            mean is that of the normal distribution.
    """
    name, _, column = (source or "").partition(": ")
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


def paper_tables(results: Results) -> list[tuple[list[PublishedTable], list[Measured | None]]]:
    """Return the paper's tables for comparable data that go beyond the clean accuracy.

    Returns:
        For each, its parts, one per network, and the measured counterparts of its columns.
    """
    groups: dict[str, list[PublishedTable]] = {}
    for table in TABLES:
        if table.dataset == dataset_like(results) and table.table not in _LEFT_OUT:
            groups.setdefault(f"{table.title}: {table.what}", []).append(table)
    found = []
    for group in groups.values():
        sources = group[0].columns.values()
        ours = [measured(results, source) for source in sources]
        if any(one and source != "clean" for source, one in zip(sources, ours, strict=True)):
            found.append((group, ours))
    return found
