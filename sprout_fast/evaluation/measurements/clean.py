"""The model's outputs on the clean images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sprout_fast.attacks.active import is_misclassified
from sprout_fast.evaluation.measurements.base import Batch, Measurement
from sprout_fast.evaluation.subject import Subject
from sprout_fast.models.logits import check_values


@dataclass(frozen=True)
class Clean(Measurement):
    """Predictions and statistics of the logits, from several forward passes.

    Columns: ``misclassified`` (bool), ``predicted`` (int64), ``confidence`` (softmax probability of
    the predicted class), ``margin`` (largest minus second-largest logit), ``smallest`` and ``sum``
    (of the logits), ``change`` (largest absolute difference of a logit from the first pass).

    Raises:
        UserError: logits that are NaN or infinite, which no accuracy could tell from wrong ones.
    """

    name: str = "clean"
    passes: int = 5

    def measure(self, subject: Subject, batch: Batch) -> dict[str, Tensor]:
        logits, *others = [subject.logits(batch.images) for _ in range(self.passes)]
        check_values(logits, batch.labels)
        two = logits.topk(2, dim=1).values
        return {
            "misclassified": is_misclassified(logits, batch.labels),
            "predicted": logits.argmax(1),
            "confidence": torch.softmax(logits, 1).amax(1),
            "margin": two[:, 0] - two[:, 1],
            "smallest": logits.amin(1),
            "sum": logits.sum(1),
            "change": torch.stack([(logits - one).abs().amax(1) for one in others]).amax(0),
        }
