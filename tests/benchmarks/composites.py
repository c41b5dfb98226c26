"""Baselines of the ops: the same formulas and distributions with PyTorch's operations.

They run on any device. ``bench_*.py`` and ``gpu_check.py`` call them eagerly and under
``torch.compile``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def gaussian_mixup(
    images: Tensor,  # [B, 3, H, W] uint8 or floating
    partner: Tensor | None,
    lam: Tensor | None,
    mean: Tensor,  # [3, 1, 1]
    std: Tensor,  # [3, 1, 1]
    dtype: torch.dtype,
) -> Tensor:
    """Equivalent of the op with noise="marginal" and sigma = 0.1; None disables noise and Mixup."""
    x = images / 255 if images.dtype == torch.uint8 else images
    if partner is not None:
        lam = lam.view(-1, 1, 1, 1)
        x = lam * x + (1 - lam) * x[partner]
        x = x + 0.1 * (lam**2 + (1 - lam) ** 2).sqrt() * torch.randn_like(x)
    return ((x - mean) / std).to(dtype)


def sample_mixup(
    index: Tensor,  # [B] int64, 0 to B - 1
    mixup_alpha: Tensor,  # [2], the parameters of Beta
) -> tuple[Tensor, Tensor]:
    """Return partners [B] and lam [1] of a batch."""
    variates = torch._standard_gamma(mixup_alpha)
    shift = torch.randint(1, max(len(index), 2), (1,), device=index.device)
    return (index + shift) % len(index), variates[:1] / variates.sum()


def sample_mixup_distribution(index: Tensor, mixup_alpha: Tensor) -> tuple[Tensor, Tensor]:
    """The same with torch.distributions."""
    shift = torch.randint(1, max(len(index), 2), (1,), device=index.device)
    beta = torch.distributions.Beta(mixup_alpha[:1], mixup_alpha[1:], validate_args=False)
    return (index + shift) % len(index), beta.sample()


def pgd_step_(x_adv: Tensor, grad: Tensor, x: Tensor, step: float, eps: float) -> Tensor:
    """Make a PGD step in place, clipped to the eps ball and to [0, 1]."""
    moved = x_adv + step * grad.sign()
    return x_adv.copy_((x + (moved - x).clamp(-eps, eps)).clamp(0, 1))


def log_gamma(concentration: Tensor) -> Tensor:
    """Take the log of gamma variates, which underflow at small concentrations, unlike the op."""
    return torch._standard_gamma(concentration).log()


def log_gamma_distribution(concentration: Tensor) -> Tensor:
    """The same with torch.distributions."""
    rate = torch.ones_like(concentration)
    return torch.distributions.Gamma(concentration, rate, validate_args=False).rsample().log()


def dirichlet(concentration: Tensor) -> Tensor:
    """Divide gamma variates by their sum."""
    variates = torch._standard_gamma(concentration)
    return variates / variates.sum(-1, keepdim=True)


def dirichlet_distribution(concentration: Tensor) -> Tensor:
    """The same with torch.distributions."""
    return torch.distributions.Dirichlet(concentration, validate_args=False).rsample()


def sprout_loss(
    logits: Tensor,  # [B, K]
    one_hot: Tensor,  # [B, K] float32
    beta: Tensor,  # [K]
    alpha: float = 0.01,
    scale: float = 1.0,
    sample: Callable[[Tensor], Tensor] = dirichlet_distribution,
) -> Tensor:
    """Return the cross entropy with Dirichlet labels drawn by ``sample``."""
    z = sample(scale * ((1 - alpha) * one_hot + alpha * beta))
    return -(z * F.log_softmax(logits.float(), 1)).sum(1).mean()


def sprout_loss_by_gammas(
    logits: Tensor, one_hot: Tensor, beta: Tensor, alpha: float, scale: float
) -> Tensor:
    """The same without torch.distributions."""
    return sprout_loss(logits, one_hot, beta, alpha, scale, dirichlet)
