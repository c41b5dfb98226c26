"""Random numbers of Mixup: the partner of each image and the mixing coefficients."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_mixup(
    batch_size: int, rng_state: Tensor, *, mixup_alpha: float = 0.2, per_sample: bool = False
) -> tuple[Tensor, Tensor]:
    """Draw the partners and coefficients of Mixup for a batch (Zhang et al., 2018), on the device.

    ``partner[i] = (i + r) % batch_size`` with one r, uniform in [1, batch_size - 1], so that no
    image is its own partner (r = 0 for a batch of one). ``lam ~ Beta(mixup_alpha, mixup_alpha)`` is
    drawn as ``sigmoid(log G1 - log G2)`` from two gamma variates.

    Args:
        batch_size: number of images B.
        rng_state: int64 [3], from :meth:`sprout_fast.PhiloxState.next`; stream 2.
        mixup_alpha: parameter of the Beta distribution, in [1e-30, 1e5]; 0.2 in the SPROUT paper.
        per_sample: whether to draw one coefficient per image instead of one per batch.

    Returns:
        ``partner``, int64 [B], and ``lam``, float32 [1], or [B] if ``per_sample``.

    Raises:
        RuntimeError: An argument has a wrong shape, dtype or value; the message names it.

    Example:
        >>> partner, lam = sample_mixup(4, torch.tensor([0, 0, 0]))
        >>> partner.shape, lam.shape
        (torch.Size([4]), torch.Size([1]))
    """
    return torch.ops.sprout_fast.sample_mixup(batch_size, rng_state, mixup_alpha, per_sample)


@torch.library.register_fake("sprout_fast::sample_mixup")
def _(batch_size, rng_state, mixup_alpha, per_sample):
    lam = rng_state.new_empty([batch_size if per_sample else 1], dtype=torch.float32)
    return rng_state.new_empty([batch_size]), lam
