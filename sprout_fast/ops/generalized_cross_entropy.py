"""Generalized cross entropy (SPROUT, eq. 4) for class indices and for probabilities."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sprout_fast.ops._autograd import (
    call_op,
    forward_gives_gradient,
    refuse_second_derivative,
    register_autograd,
    scale_,
)
from sprout_fast.ops._fake import check_one_device

Reduction = Literal["mean", "sum", "none"]


def generalized_cross_entropy(
    logits: Tensor, target: Tensor, *, label_smoothing: float = 0.0, reduction: Reduction = "mean"
) -> Tensor:
    """Compute the cross entropy ``-sum_k h(y)_k * log_softmax(logits)_k`` (SPROUT, eq. 4, g = I).

    ``h(y) = (1 - label_smoothing) * y + label_smoothing / K``. Classes with h(y)_k = 0 contribute
    nothing, even if their logit is -inf.

    The name is that of the SPROUT paper (Cheng et al., 2021). This is not the Lq loss of Zhang and
    Sabuncu (2018), which has the same name.

    Args:
        logits: [B, K] float64, float32, bfloat16 or float16. Computation is in float32 (float64 for
            float64 logits).
        target: int64 [B] in [0, K), or probabilities [B, K] of any of the dtypes of ``logits``.
            Probabilities are not normalized: rows may sum to any number, and the gradient is
            exact for them.
        label_smoothing: in [0, 1]; applies to probabilities too, as in
            :func:`torch.nn.functional.cross_entropy`.
        reduction: ``"mean"`` (over B), ``"sum"`` or ``"none"``.

    Returns:
        The loss in float32 (float64 for float64 logits): a scalar, or [B] for
        ``reduction="none"``. Differentiable once, with respect to ``logits``,
        ``dL/dlogit_k = softmax_k * sum_j h_j - h_k``, and to probabilities,
        ``dL/dy_k = -(1 - label_smoothing) * log_softmax_k``.

    Raises:
        RuntimeError: An argument has a wrong shape, dtype, device or value; the message names it.
            Class indices are checked on CPU only. On CUDA, where the check would stall the stream,
            the row concerned is NaN.

    Example:
        >>> logits = torch.zeros(2, 4, requires_grad=True)
        >>> loss = generalized_cross_entropy(logits, torch.tensor([0, 3]))
        >>> loss.backward()
        >>> round(loss.item(), 4), logits.grad[0]  # log 4
        (1.3863, tensor([-0.3750,  0.1250,  0.1250,  0.1250]))
    """
    arguments = (logits, target, label_smoothing, reduction)
    if forward_gives_gradient(logits) and not getattr(target, "requires_grad", False):
        return _GradientInForward.apply(*arguments)
    return _generalized_cross_entropy(*arguments, False)


class _GradientInForward(torch.autograd.Function):
    """:func:`generalized_cross_entropy` with the gradient computed in the forward pass."""

    @staticmethod
    def forward(ctx, *arguments):
        output = call_op(torch.ops.sprout_fast.generalized_cross_entropy.default, *arguments, True)
        _setup_context(ctx, (*arguments, None), output)
        loss, _, ctx.grad_logits = output
        return loss

    @staticmethod
    def backward(ctx, *grad_outputs):
        (grad_loss,) = grad_outputs
        grad_logits, ctx.grad_logits = ctx.grad_logits, None
        if torch.is_grad_enabled():  # create_graph: the op has to refuse
            return _backward(ctx, grad_loss)[:-1]
        if grad_logits is None:  # handed out: a second backward pass recomputes the same bits
            logits, target, _ = ctx.saved_tensors
            op = torch.ops.sprout_fast.generalized_cross_entropy.default
            grad_logits = call_op(op, logits, target, *ctx.scalars, True)[2]
        return scale_(grad_logits, grad_loss), None, None, None


_ROW_STATS = 4  # CrossEntropyStat in csrc/ops/generalized_cross_entropy_args.h


@torch.library.register_fake("sprout_fast::generalized_cross_entropy")
def _(logits, target, label_smoothing, reduction, return_grad_logits):
    check_one_device("generalized_cross_entropy", logits=logits, target=target)
    batch, classes = logits.shape
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return (
        logits.new_empty([batch] if reduction == "none" else [], dtype=dtype),
        logits.new_empty([batch, _ROW_STATS], dtype=dtype),
        logits.new_empty([batch if return_grad_logits else 0, classes]),
    )


@torch.library.register_fake("sprout_fast::generalized_cross_entropy_backward")
def _(grad_loss, logits, target, row_stats, label_smoothing, reduction, return_grad_target):
    return (
        logits.new_empty(logits.shape),
        target.new_empty(target.shape if return_grad_target else [0]),
    )


def _setup_context(ctx, inputs, output):
    logits, target, *ctx.scalars, _ = inputs
    ctx.save_for_backward(logits, target, output[1])


def _backward(ctx, grad_loss, *_):
    op = torch.ops.sprout_fast.generalized_cross_entropy_backward.default
    wants_target = ctx.needs_input_grad[1]
    grads = call_op(op, grad_loss, *ctx.saved_tensors, *ctx.scalars, wants_target)
    grad_logits, grad_target = grads
    return grad_logits, grad_target if wants_target else None, None, None, None


_generalized_cross_entropy = register_autograd(
    "generalized_cross_entropy", _backward, _setup_context
)
refuse_second_derivative("generalized_cross_entropy_backward")
