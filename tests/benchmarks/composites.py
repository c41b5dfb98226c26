"""What the ops are measured against: the same formula and distribution in PyTorch's operations.

On any device. `bench_*.py` and `gpu_check.py` call them as they are and under torch.compile.
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
    """The op with noise="marginal" and sigma = 0.1; with neither noise nor Mixup for None."""
    x = images / 255 if images.dtype == torch.uint8 else images
    if partner is not None:
        lam = lam.view(-1, 1, 1, 1)
        x = lam * x + (1 - lam) * x[partner]
        x = x + 0.1 * (lam**2 + (1 - lam) ** 2).sqrt() * torch.randn_like(x)
    return ((x - mean) / std).to(dtype)


def sample_mixup(place: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """Partners and lam of a batch; place: int64 [B], 0 to B - 1; a: [2], Beta's parameters."""
    variates = torch._standard_gamma(a)
    shift = torch.randint(1, max(len(place), 2), (1,), device=place.device)
    return (place + shift) % len(place), variates[:1] / variates.sum()


def sample_mixup_distribution(place: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """By torch.distributions."""
    shift = torch.randint(1, max(len(place), 2), (1,), device=place.device)
    lam = torch.distributions.Beta(a[:1], a[1:], validate_args=False).sample()
    return (place + shift) % len(place), lam


def pgd_step_(x_adv: Tensor, grad: Tensor, x: Tensor, step: float, eps: float) -> Tensor:
    """In place, within [0, 1]."""
    moved = x_adv + step * grad.sign()
    return x_adv.copy_((x + (moved - x).clamp(-eps, eps)).clamp(0, 1))


def log_gamma(concentration: Tensor) -> Tensor:
    """Through the variate, which underflows at small concentrations; the op's does not."""
    return torch._standard_gamma(concentration).log()


def log_gamma_distribution(concentration: Tensor) -> Tensor:
    """By torch.distributions."""
    rate = torch.ones_like(concentration)
    return torch.distributions.Gamma(concentration, rate, validate_args=False).rsample().log()


def dirichlet(concentration: Tensor) -> Tensor:
    """Gamma variates over their sum."""
    variates = torch._standard_gamma(concentration)
    return variates / variates.sum(-1, keepdim=True)


def dirichlet_distribution(concentration: Tensor) -> Tensor:
    """By torch.distributions."""
    return torch.distributions.Dirichlet(concentration, validate_args=False).rsample()


def sprout_loss(
    logits: Tensor,  # [B, K]
    one_hot: Tensor,  # [B, K] float32
    beta: Tensor,  # [K]
    alpha: float = 0.01,
    scale: float = 1.0,
    sample: Callable[[Tensor], Tensor] = dirichlet_distribution,
) -> Tensor:
    """Cross entropy on Dirichlet labels that ``sample`` draws."""
    z = sample(scale * ((1 - alpha) * one_hot + alpha * beta))
    return -(z * F.log_softmax(logits.float(), 1)).sum(1).mean()


def sprout_loss_by_gammas(
    logits: Tensor, one_hot: Tensor, beta: Tensor, alpha: float, scale: float
) -> Tensor:
    """The same without torch.distributions."""
    return sprout_loss(logits, one_hot, beta, alpha, scale, dirichlet)
