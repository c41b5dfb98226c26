"""Dirichlet samples, differentiable with respect to their concentration."""

from __future__ import annotations

import torch
from torch import Tensor

from sprout_fast.ops._shared import call_op, check_one_device, register_autograd


def dirichlet(concentration: Tensor, rng_state: Tensor) -> Tensor:
    """Sample from Dirichlet distributions over the last dimension.

    Each sample is the softmax of the variates that :func:`log_gamma` draws from the same state.

    Args:
        concentration: [..., K] with K >= 1, nonnegative and finite, float32 or float64.
        rng_state: int64 [3], from :meth:`sprout_fast.PhiloxState.next`; stream 1, as in
            :func:`log_gamma`.

    Returns:
        A contiguous tensor of the shape and dtype of ``concentration`` whose rows sum to 1. Entries
        with concentration 0 are 0, and so are those that would be below e^-40 (4e-18). A row of
        zeros, which defines no distribution, gives NaN, and so does a float32 row whose
        concentrations are all below 1e-36, since their log G leave float32's range.

        Differentiable once with respect to ``concentration`` by implicit reparameterization
        (Figurnov et al., 2018): ``dL/da_k = z_k * (g_k - sum_j g_j * z_j) * dlog G_k/da_k`` with
        ``g = dL/dz``. The gradient is 0 where z is 0, whatever ``g`` is there.

    Raises:
        RuntimeError: An argument has a wrong shape, dtype, device or value; the message names it.
            Values inside tensors are checked on CPU only; on CUDA, the row concerned is NaN.

    Example:
        >>> a = torch.tensor([[1.0, 2.0, 0.0], [1e-4, 1e-4, 1e-4]], requires_grad=True)
        >>> z = dirichlet(a, torch.tensor([0, 0, 0]))
        >>> z[0, 2].item(), z.sum(1).detach().allclose(torch.ones(2))
        (0.0, True)
        >>> z[:, 0].sum().backward()
        >>> a.grad.shape
        torch.Size([2, 3])
    """
    return _dirichlet(concentration, rng_state)


@torch.library.register_fake("sprout_fast::dirichlet")
def _(concentration, rng_state):
    check_one_device("dirichlet", concentration=concentration, rng_state=rng_state)
    shape = concentration.shape
    return concentration.new_empty(shape), concentration.new_empty(shape[:-1])


@torch.library.register_fake("sprout_fast::dirichlet_backward")
def _(grad_z, concentration, z, log_total):
    return concentration.new_empty(concentration.shape)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(inputs[0], *output)


def _backward(ctx, grad_z, *_):
    return call_op("dirichlet_backward", grad_z, *ctx.saved_tensors), None


def _jvp(inputs, outputs, tangent):
    concentration, rng_state = inputs
    z = outputs[0]
    log_g = call_op("log_gamma", concentration, rng_state)  # z is its softmax
    along = z * call_op("log_gamma_backward", tangent, concentration, log_g)
    return along - z * along.sum(-1, keepdim=True)


_dirichlet = register_autograd("dirichlet", _backward, _setup_context, jvp=_jvp)
