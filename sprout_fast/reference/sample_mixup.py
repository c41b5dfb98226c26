"""Partners and coefficients of Mixup in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from sprout_fast.reference.log_gamma import gamma_variates
from sprout_fast.reference.philox import STREAM_MIXUP, philox_words


def sample_mixup(
    batch_size: int, rng_state: Tensor, *, mixup_alpha: float = 0.2, per_sample: bool = False
) -> tuple[Tensor, Tensor]:
    """Compute :func:`sprout_fast.sample_mixup`, with variates in float64."""
    first = int(rng_state[2]) if per_sample else 0
    index = first + torch.arange(batch_size if per_sample else 1)
    elements = torch.stack([2 * index, 2 * index + 1], -1)
    concentration = torch.tensor(mixup_alpha, dtype=torch.float32).double().expand(elements.shape)
    log_g = gamma_variates(concentration, rng_state, stream=STREAM_MIXUP, element=elements)
    shift = 0
    if batch_size > 1:
        word = int(philox_words(rng_state, STREAM_MIXUP, torch.tensor(0), draw=0xFFFFFFFF)[0])
        shift = 1 + (word * (batch_size - 1) >> 32)
    partner = (torch.arange(batch_size) + shift) % max(batch_size, 1)
    return partner, torch.sigmoid(log_g[:, 0] - log_g[:, 1]).float()
