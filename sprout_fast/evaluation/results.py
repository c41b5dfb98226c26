"""The results of an evaluation, image by image."""

from __future__ import annotations

import functools
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sprout_fast._version import __version__
from sprout_fast.evaluation.accuracy import Accuracy
from sprout_fast.evaluation.audit import Audit
from sprout_fast.evaluation.corruptions import CorruptionSummary, summarize_corruptions
from sprout_fast.evaluation.measurements.attack import within_ball
from sprout_fast.evaluation.names import NormName, ProtocolName
from sprout_fast.evaluation.recorder import AccuracyRecord, Record
from sprout_fast.evaluation.subject import Subject, fingerprint
from sprout_fast.files import write_json


@dataclass
class Results:
    """Results of :func:`sprout_fast.evaluate`. ``print(results)`` summarizes them.

    Attributes that are not listed are arguments of that function, images and labels on the CPU.

    Attributes:
        subject: the model under evaluation.
        records: all measurements by name, in the order in which they were made.
        audit: checks for gradient masking.
        images_available: number of images from which the N were selected, if known.
        data: what the images are and how they were preprocessed, if known.

    >>> import sprout_fast
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))
    >>> images, labels = torch.rand(6, 3, 2, 2), torch.tensor([0, 1, 2, 3, 0, 1])
    >>> results = sprout_fast.evaluate(model, images, labels, eps=0.1, scale=0.1)
    >>> list(results.attacks)
    ['APGD-CE', 'APGD-T', 'FAB-T', 'Square']
    >>> results.attacks["APGD-T"].misclassified.shape
    torch.Size([6])
    """

    subject: Subject
    images: Tensor
    labels: Tensor
    protocol: ProtocolName
    norm: NormName
    eps: float
    seed: int
    batch_size: int
    scale: float
    records: dict[str, Record]
    audit: Audit
    images_available: int | None = None
    data: str | None = None

    @property
    def clean_record(self) -> AccuracyRecord:
        """The record of the clean images."""
        record = self.records["clean"]
        assert isinstance(record, AccuracyRecord)
        return record

    @property
    def clean(self) -> Accuracy:
        """Accuracy on the clean images, with counts and confidence interval."""
        return self.clean_record.accuracy

    @property
    def clean_accuracy(self) -> float:
        """Fraction of the clean images that are classified correctly, in [0,1]."""
        return self.clean.top1

    @property
    def robust(self) -> Accuracy:
        """Robust accuracy, with counts and confidence interval."""
        return Accuracy(int((~self.misclassified).sum()), len(self.labels), "robust")

    @property
    def robust_accuracy(self) -> float:
        """Fraction of images that are classified correctly under every attack, in [0,1].

        The worst case over all attacks is taken image by image, within the ball (norm, eps). It is
        an upper bound on the true robust accuracy.
        """
        return self.robust.top1

    @property
    def doubtful(self) -> bool:
        """Whether checks of the audit failed and the robust accuracy is above 0."""
        return bool(self.audit.failed) and self.robust.correct > 0

    @property
    def excess(self) -> float:
        """By how much the robust accuracy may be too high, judging by the failed checks, in [0,1].

        The robust accuracy times the largest fraction of images that a failed check applies to: an
        estimate from few images, and no bound on what other attacks may find. 0 if none failed.
        """
        return self.audit.affected * self.robust_accuracy

    @functools.cached_property
    def misclassified(self) -> Tensor:
        """Images misclassified without an attack, or under any attack within eps: bool [N]."""
        misclassified = self.clean_record.misclassified.clone()
        for record in self.attacks.values():
            misclassified |= self.misclassified_within(record)
        return misclassified

    def misclassified_within(self, record: AccuracyRecord) -> Tensor:
        """Return the images on which an attack succeeded within this evaluation's ball: bool [N].

        The attack may have used another ball. Its perturbations count if they are inside this one.
        """
        misclassified = torch.zeros(len(self.labels), dtype=torch.bool)
        if self.norm in record.columns:
            inside = within_ball(record.columns[self.norm], self.eps)
            misclassified[record.rows] = record.columns["misclassified"] & inside
        return misclassified

    @property
    def attacks(self) -> dict[str, AccuracyRecord]:
        """Records of the attacks that were run, by name."""
        return {
            name: record
            for name, record in self.records.items()
            if isinstance(record, AccuracyRecord)
            and record.parameters["kind"] == "AttackMeasurement"
            and record.unavailable is None
        }

    @property
    def corruptions(self) -> CorruptionSummary | None:
        """Accuracy by corruption and severity, if the protocol measures it."""
        return summarize_corruptions(self.records, self.subject.num_classes)

    def to_dict(self) -> dict[str, Any]:
        """Return parameters, seeds, versions, measurements and each image's outcome, for JSON."""
        device = self.subject.device
        gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
        content = {
            "model": self.subject.name,
            "verdict": {
                "clean_accuracy": self.clean_accuracy,
                # Without an attack, nothing is known about it.
                "robust_accuracy": self.robust_accuracy if self.attacks else None,
                "robust_interval_95": list(self.robust.interval) if self.attacks else None,
                "doubtful": self.doubtful,
                "may_be_too_high_by": self.excess,
                "norm": self.norm,
                "eps": self.eps,
                "images": len(self.labels),
                "images_available": self.images_available,
            },
            "audit": self.audit.to_dict(),
            "corruptions": None if self.corruptions is None else self.corruptions.to_dict(),
            "parameters": {
                "data": self.data,
                "num_classes": self.subject.num_classes,
                "protocol": self.protocol,
                "seed": self.seed,
                "batch_size": self.batch_size,
                "scale": self.scale,
                "device": gpu or str(device),
                "fingerprint": fingerprint(self.subject, self.images, self.labels),
                "training": dict(self.subject.config),
                "surrogate": self.subject.surrogate_name or None,
            },
            "versions": versions(),
            "measurements": [_record_dict(record) for record in self.records.values()],
            "per_image": {
                "label": self.labels.tolist(),
                "misclassified": self.misclassified.tolist(),
                "misclassified_under": {
                    name: record.misclassified.tolist()
                    for name, record in self.records.items()
                    if isinstance(record, AccuracyRecord)
                    and record.parameters["kind"] != "Corrupted"  # whose images are others
                },
            },
        }
        return _plain(content)

    def save(self, folder: str | Path) -> Path:
        """Write ``results.json`` into ``folder``, created if necessary, and return its path.

        :func:`sprout_fast.evaluation.write_report` writes the HTML report.
        """
        path = Path(folder) / "results.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, self.to_dict())
        return path

    def __str__(self) -> str:
        trial = f", a trial run at {self.scale:g} of their budgets" if self.scale < 1 else ""
        count = len(self.attacks)
        attacks = f"over {count} attack{'s' * (count != 1)}{trial}"
        robust = f"{self.robust}, {self.norm} eps {self.eps:.4g}, {attacks}"
        if self.corruptions is not None:
            return f"{self.corruptions.table()}\n{self.clean}\ncorruptions: {self.corruptions}"
        if self.doubtful:
            robust += f"; doubtful: may be too high by {100 * self.excess:.1f} points"
        return f"{self.clean}\n{robust}\n{self.audit}"


def versions() -> dict[str, str]:
    """Return the versions of the software that the numbers depend on."""
    return {
        "sprout_fast": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _record_dict(record: Record) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": record.name,
        "parameters": record.parameters,
        "images": len(record.rows),
        "seconds": round(record.seconds, 3),
    }
    if record.unavailable is not None:
        values["not_measured"] = record.unavailable
    if isinstance(record, AccuracyRecord):
        values["accuracy"] = record.accuracy.top1
        values["interval_95"] = list(record.accuracy.interval)
    columns = {name: column for name, column in record.columns.items() if len(column) > 0}
    names = [name for name in columns if name not in ("misclassified", "predicted")]
    if names:
        values["means"] = {name: columns[name].double().mean().item() for name in names}
    return values


def _plain(value: Any) -> Any:
    """Convert to JSON's types; numbers that JSON lacks, such as NaN, become strings."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
