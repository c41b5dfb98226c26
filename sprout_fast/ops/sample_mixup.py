"""Random numbers of Mixup: the partner of each image and the mixing coefficients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sprout_fast.ops._shared import check_one_device

if TYPE_CHECKING:  # whose import of torch may be what imports this module
    from sprout_fast.random import PhiloxState


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


def sample_mixup_(
    rng: PhiloxState, labels: Tensor, mixup_alpha: float, per_sample: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw as :func:`sample_mixup` from ``rng``, which advances, in one launch.

    Returns ``partner``, ``lam``, the labels of the partners, int64 [B], and the ``rng_state`` that
    was drawn with, for the noise of the same images.
    """
    rng.check_process()
    arguments = rng.state, rng.first_row, labels, mixup_alpha, per_sample
    if torch.compiler.is_compiling():
        return _advancing_op(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return _advancing_op(*arguments)


_advancing_op = torch.ops.sprout_fast.sample_mixup_.default


@torch.library.register_fake("sprout_fast::sample_mixup_")
def _(rng, first_row, labels, mixup_alpha, per_sample):
    check_one_device("sample_mixup_", rng=rng, first_row=first_row, labels=labels)
    lam = rng.new_empty([len(labels) if per_sample else 1], dtype=torch.float32)
    return rng.new_empty(labels.shape), lam, rng.new_empty(labels.shape), rng.new_empty([3])


@torch.library.register_fake("sprout_fast::sample_mixup")
def _(batch_size, rng_state, mixup_alpha, per_sample):
    lam = rng_state.new_empty([batch_size if per_sample else 1], dtype=torch.float32)
    return rng_state.new_empty([batch_size]), lam
