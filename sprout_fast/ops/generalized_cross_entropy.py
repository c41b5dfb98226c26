"""Generalized cross entropy (SPROUT, eq. 4) for class indices and for probabilities."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sprout_fast.ops import _shared

Reduction = Literal["mean", "sum", "none"]


def generalized_cross_entropy(
    logits: Tensor, target: Tensor, *, label_smoothing: float = 0.0, reduction: Reduction = "mean"
) -> Tensor:
    """Compute the cross entropy ``-sum_k h(y)_k * log_softmax(logits)_k`` (SPROUT, eq. 4, g = I).

    ``h(y) = (1 - label_smoothing) * y + label_smoothing / K``. Classes with h(y)_k = 0 contribute
    nothing, even if their logit is -inf. The name is the SPROUT paper's (Cheng et al., 2021); the
    Lq loss of Zhang and Sabuncu (2018) is another one of this name.

    Args:
        logits: [B, K] float64, float32, bfloat16 or float16.
        target: int64 [B] in [0, K), or probabilities [B, K] of any of the dtypes of ``logits``.
            Probabilities are not normalized; the gradient is exact whatever a row sums to.
        label_smoothing: in [0, 1]; applies to probabilities too, as in
            :func:`torch.nn.functional.cross_entropy`.
        reduction: ``"mean"`` (over B), ``"sum"`` or ``"none"``.

    Returns:
        The loss, computed in float32 (float64 for float64 logits): a scalar, or [B] for
        ``reduction="none"``. Differentiable once, with respect to ``logits``,
        ``dL/dlogit_k = softmax_k * sum_j h_j - h_k``, and to probabilities,
        ``dL/dy_k = -(1 - label_smoothing) * log_softmax_k``.

    Raises:
        RuntimeError: An argument has a wrong shape, dtype, device or value; the message names it.
            Class indices are checked on CPU only; on CUDA, the row concerned is NaN.

    Example:
        >>> logits = torch.zeros(2, 4, requires_grad=True)
        >>> loss = generalized_cross_entropy(logits, torch.tensor([0, 3]))
        >>> loss.backward()
        >>> round(loss.item(), 4), logits.grad[0]  # log 4
        (1.3863, tensor([-0.3750,  0.1250,  0.1250,  0.1250]))
    """
    arguments = (logits, target, label_smoothing, reduction)
    if _shared.forward_gives_gradient(logits) and not getattr(target, "requires_grad", False):
        return _GradientInForward.apply(logits, arguments)
    return _cross_entropy(*arguments, False)


class _GradientInForward(torch.autograd.Function):
    """:func:`generalized_cross_entropy` with the gradient computed in the forward pass."""

    @staticmethod
    def forward(ctx, logits, arguments):
        with torch._C._AutoDispatchBelowAutograd():
            output = _op(*arguments, True)
        _setup_context(ctx, (*arguments, True), output)
        loss, _, ctx.grad_logits = output
        ctx.set_materialize_grads(False)
        return loss

    @staticmethod
    def backward(ctx, *grad_outputs):
        (grad_loss,) = grad_outputs
        if grad_loss is None:  # the loss went into a function that passes no gradient on
            return None, None
        grad_logits, ctx.grad_logits = ctx.grad_logits, None
        if torch.is_grad_enabled():  # create_graph: the op has to refuse
            return _recomputed(ctx, grad_loss, False)[0], None
        if grad_logits is None:  # handed out: a second backward pass recomputes the same bits
            arguments = *ctx.saved_tensors[:2], *ctx.scalars
            grad_logits = _shared.call_op("generalized_cross_entropy", *arguments, True)[2]
        return _shared.scaled([grad_logits], grad_loss)[0], None


_ROW_STATS = 4  # CrossEntropyStat in csrc/ops/generalized_cross_entropy_args.h


@torch.library.register_fake("sprout_fast::generalized_cross_entropy")
def _(logits, target, label_smoothing, reduction, return_grad_logits):
    _shared.check_one_device("generalized_cross_entropy", logits=logits, target=target)
    return _shared.fake_loss(logits, reduction, _ROW_STATS, return_grad_logits)


@torch.library.register_fake("sprout_fast::generalized_cross_entropy_backward")
def _(grad_loss, logits, target, row_stats, label_smoothing, reduction, return_grad_target):
    grad_target = target.new_empty(target.shape if return_grad_target else [0])
    return logits.new_empty(logits.shape), grad_target


def _setup_context(ctx, inputs, output):
    logits, target, *ctx.scalars, _ = inputs
    ctx.save_for_backward(logits, target, output[1])


def _backward(ctx, grad_loss, *_):
    return *_recomputed(ctx, grad_loss, ctx.needs_input_grad[1]), None, None, None


def _recomputed(ctx, grad_loss: Tensor, wants_target: bool) -> tuple[Tensor, Tensor | None]:
    inputs = grad_loss, *ctx.saved_tensors, *ctx.scalars, wants_target
    grad_logits, grad_target = _shared.call_op("generalized_cross_entropy_backward", *inputs)
    return grad_logits, grad_target if wants_target else None


_op = torch.ops.sprout_fast.generalized_cross_entropy.default
_cross_entropy = _shared.register_autograd("generalized_cross_entropy", _backward, _setup_context)
