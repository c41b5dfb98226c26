"""What the ops share: autograd registration, the fakes' check, gradients in the forward pass."""

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

    It returns the first output, or a tuple of the first ``outputs``; the others are for
    ``backward``. In eager mode it is an ``autograd.Function`` around the bare op, or the bare op if
    no argument requires a gradient: the Python autograd that ``torch.library`` registers, and that
    ``torch.compile`` and callers of ``torch.ops`` use, costs several times as much per call as the
    kernel does on a small batch.
    """

    def no_second_derivative(ctx, *grads):
        raise RuntimeError(
            f"sprout_fast::{op} has no second derivative: its backward was asked to be "
            "differentiated (create_graph=True)"
        )

    torch.library.register_autograd(f"sprout_fast::{op}", backward, setup_context=setup_context)
    torch.library.register_autograd(f"sprout_fast::{op}_backward", no_second_derivative)

    def public(output):
        if isinstance(output, Tensor):
            return output
        return output[0] if outputs == 1 else output[:outputs]

    def forward(ctx, *arguments):
        output = call_op(op, *arguments)
        setup_context(ctx, arguments, output)
        return public(output)

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    eager = type(op, (torch.autograd.Function,), members)

    def call(*arguments):
        if not torch.compiler.is_compiling() and _wants_gradient(*arguments):
            return eager.apply(*arguments)
        return public(call_op(op, *arguments))

    return call


def _wants_gradient(*arguments) -> bool:
    return torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments)


def call_op(name: str, *arguments):
    """Call ``sprout_fast::<name>``, without its Python autograd if no gradient is required."""
    op = getattr(torch.ops.sprout_fast, name).default
    if torch.compiler.is_compiling() or _wants_gradient(*arguments):
        return op(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*arguments)


def check_one_device(op: str, **arguments: object) -> None:
    """Raise if the tensors among a fake's arguments are not all on the device of the first one.

    One meta tensor sends the whole call to the fake implementation instead of the kernel and its
    checks; a result on the op's device would then be uninitialized memory.
    """
    (first, like), *others = [(n, a) for n, a in arguments.items() if isinstance(a, Tensor)]
    for name, tensor in others:
        if tensor.device != like.device:
            raise RuntimeError(
                f"sprout_fast::{op}: {name} must be on the device of {first} ({like.device}), got "
                f"{tensor.device}"
            )


def fake_loss(logits: Tensor, reduction: str, stats: int, return_grad_logits: bool):
    """Return what a loss op does, as a fake: loss, statistics per row, gradient of the logits."""
    batch, classes = logits.shape
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    loss = logits.new_empty([batch] if reduction == "none" else [], dtype=dtype)
    row_stats = logits.new_empty([batch, stats], dtype=dtype)
    return loss, row_stats, logits.new_empty([batch if return_grad_logits else 0, classes])


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
    """Multiply a gradient from the forward pass by the loss's gradient, in place if possible."""
    weight = grad_loss.unsqueeze(1) if grad_loss.dim() else grad_loss
    compiling = torch.compiler.is_compiling()
    if not compiling and (is_legacy_batchedtensor(grad_loss) or is_batchedtensor(grad_loss)):
        return gradient * weight  # several gradients by vmap or is_grads_batched
    # loss.backward() starts from 1: skip a pass over memory. A trace must not depend on the value.
    traced = compiling or is_in_torch_dispatch_mode() or type(grad_loss) is not Tensor
    if not traced and not grad_loss.dim() and grad_loss.item() == 1:
        return gradient
    return gradient.mul_(weight)
