"""Logarithms of gamma variates, with their implicit gradient, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from sprout_fast.reference.gamma import gamma_variates, log_gamma_gradient


class _LogGamma(torch.autograd.Function):
    @staticmethod
    def forward(ctx, concentration: Tensor, rng_state: Tensor) -> Tensor:
        log_g = gamma_variates(concentration, rng_state)
        ctx.save_for_backward(concentration, log_g)
        return log_g

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (grad,) = grad_outputs
        concentration, log_g = ctx.saved_tensors
        # Where z underflows, grad is 0 and the other factor may be infinite.
        nothing = (grad == 0) | (log_g == -torch.inf)
        weight = torch.where(nothing, 0, log_gamma_gradient(concentration, log_g))
        return (grad * weight).to(concentration.dtype), None


def log_gamma(concentration: Tensor, rng_state: Tensor) -> Tensor:
    """Compute :func:`sprout_fast.log_gamma` in float64."""
    return _LogGamma.apply(concentration, rng_state)
