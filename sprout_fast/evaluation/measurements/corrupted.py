"""The model's predictions on images of one corruption and severity."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sprout_fast.attacks.active import is_misclassified
from sprout_fast.evaluation.measurements.base import Batch, Measurement
from sprout_fast.evaluation.subject import Subject


@dataclass(frozen=True)
class Corrupted(Measurement):
    """Accuracy on images that are corrupted already.

    Args:
        corruption: the corruption's name, e.g. ``"fog"``.
        severity: from 1 to 5.
        source: what the images were read from, or the library that made them.

    Columns: ``misclassified`` (bool), ``predicted`` (int64).
    """

    corruption: str
    severity: int
    source: str

    def measure(self, subject: Subject, batch: Batch) -> dict[str, Tensor]:
        logits = subject.logits(batch.images)
        return {
            "misclassified": is_misclassified(logits, batch.labels),
            "predicted": logits.argmax(1),
        }
