"""SPROUT's loss in plain PyTorch, on the same draws as the op."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from sprout_fast.reference.log_gamma import log_gamma

if TYPE_CHECKING:
    from sprout_fast.ops.generalized_cross_entropy import Reduction
    from sprout_fast.ops.sprout_loss import BetaGrad, LabelMode


def concentrations(
    labels: Tensor,
    partner_labels: Tensor | None,
    lam: Tensor | None,
    beta: Tensor,
    *,
    alpha: float,
    scale: float,
) -> Tensor:
    """Return ``scale * ((1 - alpha) * y + alpha * beta)``, float64 [B, K]."""
    y = F.one_hot(labels, len(beta)).double()
    if partner_labels is not None and lam is not None:
        weight = lam.double().expand(len(y)).unsqueeze(1)
        y = weight * y + (1 - weight) * F.one_hot(partner_labels, len(beta))
    return scale * ((1 - alpha) * y + alpha * beta.double())


def sprout_loss(
    logits: Tensor,
    labels: Tensor,
    partner_labels: Tensor | None,
    lam: Tensor | None,
    beta: Tensor,
    rng_state: Tensor,
    *,
    alpha: float = 0.01,
    scale: float = 1.0,
    label_mode: LabelMode = "sample",
    beta_grad: BetaGrad = "implicit",
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute :func:`sprout_fast.sprout_loss` in float64."""
    a = concentrations(labels, partner_labels, lam, beta, alpha=alpha, scale=scale)
    if beta_grad == "none":
        a = a.detach()
    mean = a / a.sum(1, keepdim=True)
    cost = -F.log_softmax(logits.double(), 1)
    if label_mode == "mean":
        loss = (mean * cost).sum(1)
    else:
        log_g = log_gamma(a if beta_grad == "implicit" else a.detach(), rng_state)
        loss = (torch.softmax(log_g, 1) * cost).sum(1)
        if beta_grad == "expected":  # value of the sampled loss, gradient of the expected one
            gradient_only = (mean * cost.detach()).sum(1)
            loss = loss + gradient_only - gradient_only.detach()
    return {"none": loss, "sum": loss.sum(), "mean": loss.mean()}[reduction]


def step_beta_(
    beta: Tensor, grad_sum: Tensor, velocity: Tensor, lr_factor: Tensor, step: Sequence[float]
) -> None:
    """Take the step of beta that :class:`sprout_fast.SproutLoss` takes, in place.

    ``step`` is (divisor, size, momentum, weight_decay, smallest, largest_total): beta ascends on
    ``grad_sum / divisor``, unless that is not finite, as in ``torch.optim.SGD(maximize=True)``, and
    is then bounded. ``grad_sum`` becomes 0.
    """
    divisor, size, momentum, weight_decay, smallest, largest_total = step
    grad = grad_sum / divisor
    grad_sum.zero_()
    if not grad.isfinite().all():
        return
    grad = grad - weight_decay * beta
    if momentum:
        grad = velocity.copy_(momentum * velocity + grad)
    beta.add_(grad * lr_factor, alpha=size).clamp_(min=smallest)
    beta.mul_((largest_total / beta.double().sum()).clamp(max=1)).clamp_(min=smallest)
