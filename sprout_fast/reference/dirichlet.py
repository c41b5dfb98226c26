"""Dirichlet samples in plain PyTorch, on the same draws as the op."""

from __future__ import annotations

import torch
from torch import Tensor

from sprout_fast.reference.log_gamma import log_gamma


def dirichlet(concentration: Tensor, rng_state: Tensor) -> Tensor:
    """Compute :func:`sprout_fast.dirichlet` in float64."""
    return torch.softmax(log_gamma(concentration, rng_state), -1)
