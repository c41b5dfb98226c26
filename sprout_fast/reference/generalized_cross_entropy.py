"""The generalised cross entropy in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def generalized_cross_entropy(
    logits: Tensor, target: Tensor, *, label_smoothing: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """See :func:`sprout_fast.generalized_cross_entropy`; float64, differentiable in both."""
    classes = logits.shape[1]
    y = F.one_hot(target, classes).double() if target.dim() == 1 else target.double()
    h = (1 - label_smoothing) * y + label_smoothing / classes
    log_p = torch.log_softmax(logits.double(), 1)
    # Where h is 0 the class adds nothing: 0 x -inf counts as 0.
    loss = -(h * torch.where((h == 0) & log_p.isinf(), 0, log_p)).sum(1)
    return {"none": loss, "sum": loss.sum(), "mean": loss.mean()}[reduction]
