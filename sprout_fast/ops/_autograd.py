"""Autograd registration shared by the ops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor, is_legacy_batchedtensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


def register_autograd(
    op: str, backward: Callable, setup_context: Callable, outputs: int = 1
) -> Callable[..., Any]:
    """Register the autograd formula of ``sprout_fast::<op>`` and return a function that calls it.

    In eager mode the returned function is an ``autograd.Function`` around the bare op, or the bare
    op if no argument requires a gradient: the Python autograd that ``torch.library`` registers is
    entered on every call and costs several times as much as the kernel does on a small batch.
    ``torch.compile`` and callers of ``torch.ops`` use the registered one.

    Args:
        op: name of the op.
        backward, setup_context: as for ``torch.library.register_autograd``.
        outputs: number of the op's outputs to return; the remaining ones exist for ``backward``.

    Returns:
        A function of the op's positional arguments: one tensor, or a tuple for ``outputs > 1``.
    """
    torch.library.register_autograd(f"sprout_fast::{op}", backward, setup_context=setup_context)
    overload = getattr(torch.ops.sprout_fast, op).default

    def public(output):
        if isinstance(output, Tensor):
            return output
        return output[0] if outputs == 1 else output[:outputs]

    def forward(ctx, *arguments):
        output = call_op(overload, *arguments)
        setup_context(ctx, arguments, output)
        return public(output)

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    eager = type(op, (torch.autograd.Function,), members)

    def call(*arguments):
        if not torch.compiler.is_compiling() and _wants_gradient(*arguments):
            return eager.apply(*arguments)
        return public(call_op(overload, *arguments))

    return call


def _wants_gradient(*arguments) -> bool:
    return torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments)


def call_op(op: torch._ops.OpOverload, *arguments):
    """Call ``op``, bypassing its Python autograd if no argument requires a gradient."""
    if torch.compiler.is_compiling() or _wants_gradient(*arguments):
        return op(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*arguments)


def forward_gives_gradient(logits: Tensor) -> bool:
    """Return whether a loss's forward pass should compute the gradient of the logits as well.

    True on CPU only, where recomputing it costs more than keeping it, and only for the dtypes in
    which it can be kept without being rounded twice.
    """
    return (
        torch.is_grad_enabled()
        and isinstance(logits, Tensor)  # otherwise the op raises and names the argument
        and logits.requires_grad
        and logits.is_cpu
        and logits.dtype in (torch.float32, torch.float64)
        and not torch.compiler.is_compiling()
    )


def scale_(gradient: Tensor, grad_loss: Tensor) -> Tensor:
    """Multiply a gradient from the forward pass by the loss's gradient, in place if possible.

    Args:
        gradient: [B, K], or [K] for a scalar loss.
        grad_loss: a scalar, or one value per row.
    """
    weight = grad_loss.unsqueeze(1) if grad_loss.dim() else grad_loss
    compiling = torch.compiler.is_compiling()
    if not compiling and _is_batched(grad_loss):  # several gradients by vmap or is_grads_batched
        return gradient * weight
    # loss.backward() starts from 1: skip a pass over memory. A trace must not depend on the value.
    traced = compiling or is_in_torch_dispatch_mode() or type(grad_loss) is not Tensor
    if not traced and not grad_loss.dim() and grad_loss.item() == 1:
        return gradient
    return gradient.mul_(weight)


def _is_batched(tensor: Tensor) -> bool:
    return is_legacy_batchedtensor(tensor) or is_batchedtensor(tensor)


def refuse_second_derivative(op: str) -> None:
    """Raise a descriptive error when ``sprout_fast::<op>``, a backward op, is differentiated."""

    def backward(ctx, *grads):
        raise RuntimeError(
            f"sprout_fast::{op.removesuffix('_backward')} has no second derivative: its backward "
            "was asked to be differentiated (create_graph=True)"
        )

    torch.library.register_autograd(f"sprout_fast::{op}", backward)
