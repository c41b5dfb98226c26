"""Generalized cross entropy in plain PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from sprout_fast.ops.generalized_cross_entropy import Reduction


def generalized_cross_entropy(
    logits: Tensor, target: Tensor, *, label_smoothing: float = 0.0, reduction: Reduction = "mean"
) -> Tensor:
    """Compute :func:`sprout_fast.generalized_cross_entropy` in float64."""
    classes = logits.shape[1]
    y = F.one_hot(target, classes).double() if target.dim() == 1 else target.double()
    h = (1 - label_smoothing) * y + label_smoothing / classes
    log_p = torch.log_softmax(logits.double(), 1)
    # A class with h = 0 contributes nothing: 0 * -inf is 0 here.
    loss = -(h * torch.where((h == 0) & log_p.isinf(), 0, log_p)).sum(1)
    return {"none": loss, "sum": loss.sum(), "mean": loss.mean()}[reduction]
