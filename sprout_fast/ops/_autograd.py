"""What the ops' autograd registrations share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def register_autograd(op: str, backward: Callable, setup_context: Callable) -> Callable[..., Tensor]:
    """``torch.library.register_autograd`` for ``sprout_fast::<op>``, and a function that calls it.

    The function takes the op's arguments and returns its first output, the one that has a gradient.
    What torch.library registers is for torch.compile and for who calls ``torch.ops`` himself: it is
    Python that every call enters, one without a gradient too, and in eager mode an
    ``autograd.Function`` around the bare op takes a third of the time for a small batch.
    """
    torch.library.register_autograd(f"sprout_fast::{op}", backward, setup_context=setup_context)
    overload = getattr(torch.ops.sprout_fast, op).default

    def first(output):
        return output[0] if isinstance(output, tuple) else output

    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *arguments):
            output = call_op(overload, *arguments)
            setup_context(ctx, arguments, output)
            return first(output)

    Eager.backward = staticmethod(backward)
    Eager.__name__ = Eager.__qualname__ = op

    def call(*arguments):
        if wants_gradient(*arguments) and not torch.compiler.is_compiling():
            return Eager.apply(*arguments)
        return first(call_op(overload, *arguments))

    return call


def wants_gradient(*arguments) -> bool:
    return torch.is_grad_enabled() and any(
        isinstance(argument, Tensor) and argument.requires_grad for argument in arguments
    )


def call_op(op: torch._ops.OpOverload, *arguments):
    """``op(*arguments)``, past what :func:`register_autograd` registered where grad mode is off."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return op(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*arguments)


def refuse_second_derivative(op: str) -> None:
    """Make differentiating ``sprout_fast::<op>``, a backward op, a named error."""

    def backward(ctx, *grads):
        raise RuntimeError(
            f"sprout_fast::{op.removesuffix('_backward')} has no second derivative: its backward "
            "was asked to be differentiated (create_graph=True)"
        )

    torch.library.register_autograd(f"sprout_fast::{op}", backward)
