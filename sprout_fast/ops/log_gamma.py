"""Standard gamma variates in log space, differentiable in their concentration."""

from __future__ import annotations

import torch
from torch import Tensor

from sprout_fast.ops._autograd import call_op, refuse_second_derivative, register_autograd
from sprout_fast.ops._fake import check_one_device


def log_gamma(concentration: Tensor, rng_state: Tensor) -> Tensor:
    """log G with G ~ Gamma(concentration, 1), one variate an element.

    Marsaglia and Tsang (2000), with log G_a = log G_{a+1} + log(U) / a below a = 1: in log space,
    because at a = 1e-3 most variates underflow float32.

    Args:
        concentration: a >= 0, finite; float32 or float64, any shape and strides.
        rng_state: int64 [3], from :meth:`PhiloxState.next`; stream 1. An element's number is its
            flat index plus first_row times the elements under one index of the first dimension (a
            0-dim tensor is one row of one element).

    Returns:
        Of concentration's shape and dtype, contiguous; -inf where a is 0 (and where a is so small,
        as 1e-38, that log G leaves the dtype's range). Differentiable in ``concentration``, once,
        by the implicit gradient at the variate, ``-(dF(g; a)/da) / (g f(g; a))`` with the gamma's
        CDF F and density f (Figurnov, Mohamed, Mnih, 2018); 0 where the variate is -inf.

    Raises:
        RuntimeError: a wrong shape, dtype or device, named; on CPU also a negative, infinite or NaN
            concentration. On CUDA, where looking would stall the stream, its variate is NaN.

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
    op = torch.ops.sprout_fast.log_gamma_backward.default
    return call_op(op, grad, *ctx.saved_tensors), None


_log_gamma = register_autograd("log_gamma", _backward, _setup_context)
refuse_second_derivative("log_gamma_backward")
