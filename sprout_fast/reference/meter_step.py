"""Running sums of loss and correct predictions in plain PyTorch."""

from __future__ import annotations

from torch import Tensor


def meter_step_(
    loss_sum: Tensor,
    hits: Tensor,
    bad_step: Tensor,
    loss: Tensor,
    logits: Tensor,
    labels: Tensor,
    partner_labels: Tensor | None = None,
    lam: Tensor | None = None,
    *,
    step: int = 0,
) -> None:
    """Compute :func:`sprout_fast.meter_step_`."""
    predicted = logits.argmax(1)
    hit = (predicted == labels).double()
    if partner_labels is not None and lam is not None:
        partner_hit = (predicted == partner_labels).double()
        hit = partner_hit + lam * (hit - partner_hit)
    hits += (hit * 2**32).round().long().sum()
    loss_sum += loss.double() * len(logits)
    if not loss.isfinite() and bad_step < 0:
        bad_step.fill_(step)
