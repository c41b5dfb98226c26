"""Logarithms of gamma variates, differentiable with respect to their concentration."""

from __future__ import annotations

import torch
from torch import Tensor

from sprout_fast.ops._shared import call_op, check_one_device, register_autograd


def log_gamma(concentration: Tensor, rng_state: Tensor) -> Tensor:
    """Sample log G with G ~ Gamma(concentration, 1), one variate per element.

    Uses the method of Marsaglia and Tsang (2000), with ``log G_a = log G_{a+1} + log(U) / a`` for
    a < 1. It works in log space because most variates underflow float32 at a = 1e-3.

    Args:
        concentration: nonnegative and finite; float32 or float64, any shape and strides.
        rng_state: int64 [3], from :meth:`sprout_fast.PhiloxState.next`; stream 1. Elements are
            numbered by their flat index plus ``first_row`` times the number of elements per index
            of the first dimension (a 0-dim tensor is one row of one element).

    Returns:
        A contiguous tensor of the shape and dtype of ``concentration``; -inf where the
        concentration is 0, or so small (e.g. 1e-38) that log G leaves the dtype's range.

        Differentiable once with respect to ``concentration`` by the implicit gradient at the
        variate, ``-(dF(g; a)/da) / (g * f(g; a))`` with the gamma distribution's CDF F and density
        f (Figurnov et al., 2018). The gradient is 0 where the variate is -inf.

    Raises:
        RuntimeError: An argument has a wrong shape, dtype, device or value; the message names it.
            Values inside tensors are checked on CPU only; on CUDA, the variate concerned is NaN.

    Example:
        >>> a = torch.tensor([0.0, 1e-3, 1.0, 1e5], requires_grad=True)
        >>> log_g = log_gamma(a, torch.tensor([0, 0, 0]))
        >>> log_g[0].item(), round(log_g[3].item(), 1)
        (-inf, 11.5)
        >>> log_g[2:].sum().backward()
        >>> a.grad.shape
        torch.Size([4])
    """
    return _log_gamma(concentration, rng_state)


@torch.library.register_fake("sprout_fast::log_gamma")
def _(concentration, rng_state):
    check_one_device("log_gamma", concentration=concentration, rng_state=rng_state)
    return concentration.new_empty(concentration.shape)


@torch.library.register_fake("sprout_fast::log_gamma_backward")
def _(grad, concentration, log_g):
    return concentration.new_empty(concentration.shape)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(inputs[0], output)


def _backward(ctx, grad):
    return call_op("log_gamma_backward", grad, *ctx.saved_tensors), None


def _jvp(inputs, outputs, tangent):
    return call_op("log_gamma_backward", tangent, inputs[0], outputs[0])


_log_gamma = register_autograd("log_gamma", _backward, _setup_context, jvp=_jvp)
