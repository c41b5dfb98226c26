"""What the ops' autograd registrations share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


def register_autograd(
    op: str, backward: Callable, setup_context: Callable, outputs: int = 1
) -> Callable[..., Tensor | tuple[Tensor, ...]]:
    """``torch.library.register_autograd`` for ``sprout_fast::<op>``, and a function that calls it.

    The function takes the op's arguments and returns its first ``outputs`` outputs: the others are
    what backward is given. In eager mode it is an ``autograd.Function`` around the bare op, or the
    bare op where nothing asks for a gradient: what torch.library registers is Python that each call
    enters, and takes several times what the kernel does with a small batch. That is left to
    torch.compile and to who calls ``torch.ops`` himself.
    """
    torch.library.register_autograd(f"sprout_fast::{op}", backward, setup_context=setup_context)
    overload = getattr(torch.ops.sprout_fast, op).default

    def public(output):
        if isinstance(output, Tensor):
            return output
        return output[0] if outputs == 1 else output[:outputs]

    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *arguments):
            output = call_op(overload, *arguments)
            setup_context(ctx, arguments, output)
            return public(output)

    Eager.backward = staticmethod(backward)
    Eager.__name__ = Eager.__qualname__ = op

    def call(*arguments):
        if not torch.compiler.is_compiling() and _wants_gradient(*arguments):
            return Eager.apply(*arguments)
        return public(call_op(overload, *arguments))

    return call


def _wants_gradient(*arguments) -> bool:
    return torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments)


def call_op(op: torch._ops.OpOverload, *arguments):
    """``op(*arguments)``, past its Python autograd where nothing asks for a gradient."""
    if torch.compiler.is_compiling() or _wants_gradient(*arguments):
        return op(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*arguments)


def forward_gives_gradient(logits: Tensor) -> bool:
    """Whether a loss's forward pass computes the logits' gradient: on CPU, where computing again
    costs more than keeping it, and in the dtypes in which it can be kept without rounding it twice.
    """
    return (
        torch.is_grad_enabled()
        and isinstance(logits, Tensor)  # the op names what is not
        and logits.requires_grad
        and logits.is_cpu
        and logits.dtype in (torch.float32, torch.float64)
        and not torch.compiler.is_compiling()
    )


def scale_(gradient: Tensor, grad_loss: Tensor) -> Tensor:
    """A gradient from the forward pass times the loss's, one number or one a row; in place."""
    weight = grad_loss.unsqueeze(1) if grad_loss.dim() else grad_loss
    compiling = torch.compiler.is_compiling()
    if not compiling and _is_batched(grad_loss):  # by vmap or is_grads_batched: several in one
        return gradient * weight
    # loss.backward() starts from 1, which spares a pass over memory; a trace cannot depend on it.
    traced = compiling or is_in_torch_dispatch_mode() or type(grad_loss) is not Tensor
    if not traced and not grad_loss.dim() and grad_loss.item() == 1:
        return gradient
    return gradient.mul_(weight)


def _is_batched(tensor: Tensor) -> bool:
    functorch = torch._C._functorch
    return functorch.is_legacy_batchedtensor(tensor) or functorch.is_batchedtensor(tensor)


def refuse_second_derivative(op: str) -> None:
    """Make differentiating ``sprout_fast::<op>``, a backward op, a named error."""

    def backward(ctx, *grads):
        raise RuntimeError(
            f"sprout_fast::{op.removesuffix('_backward')} has no second derivative: its backward "
            "was asked to be differentiated (create_graph=True)"
        )

    torch.library.register_autograd(f"sprout_fast::{op}", backward)
