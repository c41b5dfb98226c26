"""Mixup's random numbers: who is mixed with whom, and how much."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_mixup(
    rng_state: Tensor, batch_size: int, *, a: float = 0.2, per_sample: bool = False
) -> tuple[Tensor, Tensor]:
    """Partners and coefficients of Mixup for a batch (Zhang et al., 2018), drawn on the device.

    ``partner[i] = (i + r) mod batch_size`` with one r uniform in 1..batch_size-1, so that no image
    is its own partner (r = 0 for a batch of one), and lam ~ Beta(a, a), as sigmoid(log G1 - log G2)
    of two gamma variates.

    Args:
        rng_state: int64 [3], from :meth:`PhiloxState.next`; stream 2.
        batch_size: B.
        a: Beta's parameter, in [1e-30, 1e5]; the SPROUT paper uses 0.2.
        per_sample: a lam for each image instead of one for the batch.

    Returns:
        ``partner`` int64 [B] and ``lam`` float32 [1], or [B] with ``per_sample``.

    Raises:
        RuntimeError: a wrong shape, dtype or scalar, named.

    >>> partner, lam = draw_mixup(torch.tensor([0, 0, 0]), 4)
    >>> partner.shape, lam.shape
    (torch.Size([4]), torch.Size([1]))
    """
    return torch.ops.sprout_fast.draw_mixup(rng_state, batch_size, a, per_sample)


@torch.library.register_fake("sprout_fast::draw_mixup")
def _(rng_state, batch_size, a, per_sample):
    lams = batch_size if per_sample else 1
    return (
        rng_state.new_empty([batch_size]),
        rng_state.new_empty([lams], dtype=torch.float32),
    )
