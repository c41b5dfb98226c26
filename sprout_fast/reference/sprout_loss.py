"""SPROUT's loss in plain PyTorch, on the same draws as the op."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sprout_fast.reference.log_gamma import log_gamma


def concentrations(
    labels: Tensor,
    partner_labels: Tensor | None,
    lam: Tensor | None,
    beta: Tensor,
    *,
    alpha: float,
    scale: float,
) -> Tensor:
    """scale ((1 - alpha) y + alpha beta), float64 [B, K], differentiable in beta."""
    y = F.one_hot(labels, len(beta)).double()
    if lam is not None:
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
    label_mode: str = "sample",
    beta_grad: str = "implicit",
    reduction: str = "mean",
) -> Tensor:
    """See :func:`sprout_fast.sprout_loss`; float64, differentiable in logits and beta."""
    a = concentrations(labels, partner_labels, lam, beta, alpha=alpha, scale=scale)
    mean = a / a.sum(1, keepdim=True)
    cost = -F.log_softmax(logits.double(), 1)
    expected = (mean * cost).sum(1)
    if label_mode == "mean":
        loss = expected
    else:
        log_g = log_gamma(a if beta_grad == "implicit" else a.detach(), rng_state)
        loss = (torch.softmax(log_g, 1) * cost).sum(1)
        if beta_grad == "expected":  # the sampled loss's value, with the expected one's gradient
            by_beta = (mean * cost.detach()).sum(1)
            loss = loss + by_beta - by_beta.detach()
    if beta_grad == "none":
        loss = loss if label_mode != "mean" else (mean.detach() * cost).sum(1)
    return {"none": loss, "sum": loss.sum(), "mean": loss.mean()}[reduction]
