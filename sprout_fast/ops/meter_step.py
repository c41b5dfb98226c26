"""Loss and correct predictions of a batch, added to running sums on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from sprout_fast.ops._shared import check_one_device


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
    """Add a batch's loss and its correct predictions to running sums, in place.

    The prediction is the first class with the largest logit. It counts by ``lam`` if it is the
    image's own label, and by ``1 - lam`` if it is its Mixup partner's.

    Args:
        loss_sum: float64 scalar; ``loss * B`` is added.
        hits: int64 scalar, in units of 2^-32 correct predictions, so that the sum does not depend
            on the order of the rows.
        bad_step: int64 scalar; set to ``step`` if the loss is not finite and ``bad_step`` is
            negative.
        loss: float32 or float64 scalar, the mean loss of the batch.
        logits: [B, K] float64, float32, bfloat16 or float16. A NaN counts as the largest.
        labels, partner_labels: int64 [B].
        lam: float32 [B] or [1] in [0, 1]; ``partner_labels`` and ``lam`` are None without Mixup.
        step: number of the step.

    Raises:
        RuntimeError: An argument has a wrong shape, dtype or device; the message names it.

    Example:
        >>> loss_sum, hits = torch.zeros((), dtype=torch.float64), torch.tensor(0)
        >>> logits = torch.tensor([[1.0, 2.0], [1.0, 0.0]])
        >>> meter_step_(loss_sum, hits, torch.tensor(-1), torch.tensor(0.5), logits,
        ...             torch.tensor([1, 1]))
        >>> loss_sum.item(), hits.item() / 2**32
        (1.0, 1.0)
    """
    sums = loss_sum, hits, bad_step
    batch = loss.detach(), logits.detach(), labels, partner_labels, lam
    torch.ops.sprout_fast.meter_step_(*sums, *batch, step)
    if not torch.compiler.is_compiling():  # otherwise the traced copy does it
        torch.autograd.graph.increment_version(sums)


@torch.library.register_fake("sprout_fast::meter_step_")
def _(loss_sum, hits, bad_step, loss, logits, labels, partner_labels, lam, step):
    check_one_device(
        "meter_step_", loss_sum=loss_sum, hits=hits, bad_step=bad_step, loss=loss, logits=logits,
        labels=labels, partner_labels=partner_labels, lam=lam,
    )  # fmt: skip
