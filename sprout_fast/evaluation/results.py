"""What an evaluation found, image by image."""

from __future__ import annotations

import functools
import json
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
from sprout_fast.evaluation.audit import Audit, run_audit
from sprout_fast.evaluation.measurements.attack import within_ball
from sprout_fast.evaluation.recorder import Record
from sprout_fast.evaluation.subject import Subject, fingerprint


@dataclass
class Results:
    """The outcome of `sprout_fast.evaluate`.

    Attributes:
        subject: what was evaluated.
        images: [N,C,H,W], uint8 or floating in [0,1].
        labels: int64 [N].
        protocol, norm, eps, seed, batch_size, scale: how.
        records: every measurement by name, in the order in which they were made.
        images_available: how many images there were to choose N from, where that is known.
    """

    subject: Subject
    images: Tensor
    labels: Tensor
    protocol: str
    norm: str
    eps: float
    seed: int
    batch_size: int
    scale: float
    records: dict[str, Record]
    images_available: int | None = None

    @property
    def clean(self) -> Accuracy:
        return self.records["clean"].accuracy

    @property
    def clean_accuracy(self) -> float:
        """The fraction that the model gets right by itself."""
        return self.clean.top1

    @property
    def robust(self) -> Accuracy:
        """Over all attacks, image by image: right, and no attack found an error in the ball."""
        return Accuracy(int((~self.misclassified).sum()), len(self.labels), "robust")

    @property
    def robust_accuracy(self) -> float:
        """The fraction of images that no attack moved to an error within (norm, eps)."""
        return self.robust.top1

    @functools.cached_property
    def misclassified(self) -> Tensor:
        """bool [N]: wrong by itself, or under any attack at a distance of at most eps."""
        misclassified = self.records["clean"].misclassified.clone()
        for record in self.attacks.values():
            misclassified |= self.misclassified_within(record)
        return misclassified

    def misclassified_within(self, record: Record) -> Tensor:
        """bool [N]: images at which ``record``'s attack found an error in the verdict's ball,
        whatever ball the attack itself had."""
        misclassified = torch.zeros(len(self.labels), dtype=torch.bool)
        if self.norm in record.columns:
            inside = within_ball(record.columns[self.norm], self.eps)
            misclassified[record.rows] = record.columns["misclassified"] & inside
        return misclassified

    @property
    def attacks(self) -> dict[str, Record]:
        """The records that are attacks, those that could not be run left out."""
        return {
            name: record
            for name, record in self.records.items()
            if record.parameters["kind"] == "AttackMeasurement" and record.unavailable is None
        }

    @functools.cached_property
    def audit(self) -> Audit:
        """Signs of gradient masking, as far as the measurements of the protocol tell them."""
        return run_audit(self)

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain values: every parameter, seed, version, and each image's answers."""
        low, high = self.robust.interval
        content = {
            "model": self.subject.name,
            "verdict": {
                "clean_accuracy": self.clean_accuracy,
                "robust_accuracy": self.robust_accuracy,
                "robust_interval_95": [low, high],
                "norm": self.norm,
                "eps": self.eps,
                "images": len(self.labels),
                "images_available": self.images_available,
            },
            "audit": self.audit.to_dict(),
            "parameters": {
                "protocol": self.protocol,
                "seed": self.seed,
                "batch_size": self.batch_size,
                "scale": self.scale,
                "device": _device_name(self.subject.device),
                "fingerprint": fingerprint(self.subject, self.images, self.labels),
                "training": dict(self.subject.config),
                "transfer_from": self.subject.surrogate_name or None,
            },
            "versions": versions(),
            "measurements": [_record_dict(record) for record in self.records.values()],
            "per_image": {
                "label": self.labels.tolist(),
                "misclassified": self.misclassified.tolist(),
                "misclassified_under": {
                    name: record.misclassified.tolist()
                    for name, record in self.records.items()
                    if record.misclassified is not None
                },
            },
        }
        return _plain(content)

    def save(self, folder: str | Path) -> Path:
        """Write ``results.json``, the figures and ``report.html`` into ``folder``.

        Returns:
            the path of report.html, one file that needs no other.
        """
        from sprout_fast.evaluation.report import write_report  # takes matplotlib

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        (folder / "results.json").write_text(text + "\n")
        return write_report(self, folder)

    def __str__(self) -> str:
        trial = f", a trial with budgets times {self.scale:g}" if self.scale < 1 else ""
        attacks = f"over {len(self.attacks)} attacks{trial}"
        lines = [
            str(self.clean),
            f"{self.robust}, {self.norm} eps {self.eps:.4g}, {attacks}",
            str(self.audit),
        ]
        return "\n".join(line for line in lines if line)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def versions() -> dict[str, str]:
    """Of what the numbers rest on."""
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
    if (accuracy := record.accuracy) is not None:
        values["accuracy"] = accuracy.top1
        values["interval_95"] = list(accuracy.interval)
    means = {
        name: column.double().mean().item()
        for name, column in record.columns.items()
        if name not in ("misclassified", "predicted") and len(column) > 0
    }
    if means:
        values["means"] = means
    return values


def _plain(value: Any) -> Any:
    """What JSON can hold; numbers that it cannot, as ``nan``, in words."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
