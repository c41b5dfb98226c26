"""What the ops share: autograd registration, the fakes' check, gradients in the forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor, is_legacy_batchedtensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


def register_autograd(
    op: str,
    backward: Callable,
    setup_context: Callable,
    outputs: int = 1,
    jvp: Callable[[tuple, tuple, Tensor], Tensor] | None = None,
) -> Callable[..., Any]:
    """Register the autograd formula of ``sprout_fast::<op>`` and return a function that calls it.

    It returns the first output, or a tuple of the first ``outputs``; the others are for
    ``backward``. In eager mode it is an ``autograd.Function`` around the bare op, or the bare op if
    no argument requires a gradient: the Python autograd that ``torch.library`` registers, and that
    ``torch.compile`` and callers of ``torch.ops`` use, costs several times as much per call as the
    kernel does on a small batch. ``torch.func``'s transforms and forward-mode AD have an
    ``autograd.Function`` of their own: without it, tangents would silently be 0.

    Args:
        jvp: maps inputs, outputs and the first input's tangent to the first output's tangent; None
            makes forward-mode AD an error.
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
        ctx.set_materialize_grads(False)
        return public(output)

    # None instead of zeros: an output that nothing was computed from, e.g. grad_beta.
    def unless_unused(ctx, *grads):
        return (None,) * len(ctx.needs_input_grad) if grads[0] is None else backward(ctx, *grads)

    def transformed_context(ctx, inputs, output):
        setup_context(ctx, inputs, output)
        ctx.set_materialize_grads(False)
        outputs = output if isinstance(output, tuple) else (output,)
        every = *inputs, *outputs
        ctx.save_for_forward(*(value for value in every if isinstance(value, Tensor)))
        ctx.others = [None if isinstance(value, Tensor) else (value,) for value in every]
        ctx.inputs = len(inputs)

    def transformed_jvp(ctx, *tangents):
        given = [place for place, tangent in enumerate(tangents) if tangent is not None]
        if jvp is None or given != [0]:
            raise RuntimeError(
                f"sprout_fast::{op} has no forward-mode derivative (torch.func.jvp, jacfwd) with "
                "respect to this input; use reverse mode (torch.func.vjp, jacrev)"
            )
        tensors = iter(ctx.saved_tensors)
        every = [next(tensors) if other is None else other[0] for other in ctx.others]
        inputs, outputs = tuple(every[: ctx.inputs]), tuple(every[ctx.inputs :])
        tangent = jvp(inputs, outputs, tangents[0])
        return (tangent, *(torch.zeros_like(x) for x in outputs[1:])) if outputs[1:] else tangent

    _TRANSFORMED[op] = _function(op, transformed_context, unless_unused, transformed_jvp)
    _TRANSFORMED[f"{op}_backward"] = _function(
        f"{op}_backward", lambda *_: None, no_second_derivative, no_second_derivative
    )
    members = {"forward": staticmethod(forward), "backward": staticmethod(unless_unused)}
    eager = type(op, (torch.autograd.Function,), members)

    bare = getattr(torch.ops.sprout_fast, op).default

    def call(*arguments):
        if is_transformed() or torch.compiler.is_compiling():
            return public(call_op(op, *arguments))
        if _wants_gradient(*arguments):
            return eager.apply(*arguments)
        with torch._C._AutoDispatchBelowAutograd():
            return public(bare(*arguments))

    return call


# The ops with an ``autograd.Function`` for ``torch.func``'s transforms and forward-mode AD.
_TRANSFORMED: dict[str, type[torch.autograd.Function]] = {}


def is_transformed() -> bool:
    """Return whether one of ``torch.func``'s transforms or forward-mode AD is active."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _function(
    op: str, setup_context: Callable, backward: Callable, jvp: Callable
) -> type[torch.autograd.Function]:
    """Return an ``autograd.Function`` around the bare op that ``torch.func`` can transform."""

    def forward(*arguments):
        with torch._C._AutoDispatchBelowAutograd():
            return getattr(torch.ops.sprout_fast, op).default(*arguments)

    members = {"forward": forward, "setup_context": setup_context, "backward": backward, "jvp": jvp}
    static = {name: staticmethod(member) for name, member in members.items()}
    return type(op, (torch.autograd.Function,), static | {"generate_vmap_rule": True})


def _wants_gradient(*arguments) -> bool:
    return torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments)


def call_op(name: str, *arguments):
    """Call ``sprout_fast::<name>``, without its Python autograd if no gradient is required."""
    if is_transformed() and name in _TRANSFORMED:
        return _TRANSFORMED[name].apply(*arguments)
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
        and not is_transformed()
        and isinstance(logits, Tensor)  # otherwise the op raises and names the argument
        and logits.requires_grad
        and keeps_gradient(logits)
        and not torch.compiler.is_compiling()
    )


def keeps_gradient(logits: Tensor) -> bool:
    """Return whether an op of a loss can return the gradient of these logits."""
    return logits.is_cpu and logits.dtype in (torch.float32, torch.float64)


def scaled(gradients: Sequence[Tensor], grad_loss: Tensor) -> Sequence[Tensor]:
    """Multiply gradients from the forward pass by the loss's gradient, in place if possible."""
    compiling = torch.compiler.is_compiling()
    # loss.backward() starts from 1: skip a pass over memory. A trace must not depend on the value.
    traced = compiling or is_in_torch_dispatch_mode() or type(grad_loss) is not Tensor
    # Several gradients at once, by vmap or is_grads_batched, have no single value either.
    batched = not compiling and (is_legacy_batchedtensor(grad_loss) or is_batchedtensor(grad_loss))
    if not traced and not batched and not grad_loss.dim() and grad_loss.item() == 1:
        return gradients
    weight = grad_loss.unsqueeze(1) if grad_loss.dim() else grad_loss
    if batched:
        return [gradient * weight for gradient in gradients]
    return [gradient.mul_(weight) for gradient in gradients]
