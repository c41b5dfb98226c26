"""SPROUT's loss: generalised cross entropy on self-progressing Dirichlet labels, in one pass."""

from __future__ import annotations

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


def sprout_loss(
    logits: Tensor,
    labels: Tensor,
    partner_labels: Tensor | None,
    lam: Tensor | None,
    beta: Tensor,
    rng_state: Tensor,
    *,
    alpha: float = 0.01,
    scale: float = 1.0,
    label_mode: str = "sample",
    beta_grad: str = "implicit",
    reduction: str = "mean",
) -> Tensor:
    """Cross entropy against labels z ~ Dirichlet(scale ((1 - alpha) y + alpha beta)) (SPROUT eq.
    6).

    ``y = lam e_label + (1 - lam) e_partner_label``, and the row's loss is eq. (4) with g = I,
    ``sum_k z_k c_k`` with ``c = -log softmax(logits)``. No label matrix is made, and nothing of the
    logits' size is stored but their gradient, ``softmax - z``: the forward pass computes it with
    the loss (float32 and float64 on CPU), or backward does, from the same variates drawn again.

    Args:
        logits: [B, K] float64, float32, bfloat16 or float16. Arithmetic is in float32 (float64 for
            float64).
        labels, partner_labels: int64 [B] in [0, K).
        lam: float32 [B] or [1] in [0, 1], the weight of ``labels``. ``partner_labels`` and ``lam``
            are None together: no Mixup.
        beta: float32 [K], >= 0 and finite: the parameter that progresses.
        rng_state: int64 [3], from :meth:`PhiloxState.next`; stream 1.
        alpha: share of beta in the concentration, in [0, 1].
        scale: of the whole concentration, in [1e-30, 1e30]. (1, 0.01) is the paper, (11, 1/11) the
            authors' code.
        label_mode: ``"sample"``, or ``"mean"``: the Dirichlet's mean instead of a draw, which
            is label smoothing towards beta, the control for what sampling adds.
        beta_grad: ``"implicit"``: through the draw (Figurnov et al., 2018),
            ``dL/da_k = z_k (c_k - L) dlog G_k/da_k``; ``"expected"``: of the loss's expectation,
            ``(c_k - E[L]) / a_0``, the same on average and without sampling noise; ``"none"``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        The loss in float32 (float64 for float64 logits): a scalar, or [B] for ``"none"``.
        Differentiable in ``logits`` and ``beta``, once.

    Raises:
        RuntimeError: a wrong shape, dtype, device or scalar, named; on CPU also labels outside
            [0, K), lam outside [0, 1] and negative, infinite or NaN beta. On CUDA, where looking
            would stall the stream, such rows give NaN. A row whose concentrations are all 0 is NaN,
            and so, with float32 arithmetic, is one where they add up to less than 1e-33 or more
            than 1e36 (on CUDA not always). The implicit gradient, about 1 / a^2, is beyond float32
            where a concentration is under 1e-19.

    >>> logits = torch.zeros(2, 3, requires_grad=True)
    >>> loss = sprout_loss(logits, torch.tensor([0, 2]), None, None, torch.ones(3),
    ...                    torch.tensor([0, 0, 0]))
    >>> round(loss.item(), 4)  # uniform predictions cost log 3 whatever the labels
    1.0986
    """
    arguments = (
        logits,
        labels,
        partner_labels,
        lam,
        beta,
        rng_state,
        alpha,
        scale,
        label_mode,
        beta_grad,
        reduction,
    )
    if forward_gives_gradient(logits):
        has_grad = beta is not None and beta.requires_grad
        wants_grad_beta = has_grad and beta_grad != "none" and reduction != "none"
        return _GradientInForward.apply(*arguments, wants_grad_beta)[0]
    return _sprout_loss(*arguments, False, False)[0]


def sprout_loss_and_grad_beta(
    logits: Tensor,
    labels: Tensor,
    partner_labels: Tensor | None,
    lam: Tensor | None,
    beta: Tensor,
    rng_state: Tensor,
    *,
    alpha: float = 0.01,
    scale: float = 1.0,
    label_mode: str = "sample",
    beta_grad: str = "implicit",
) -> tuple[Tensor, Tensor]:
    """:func:`sprout_loss` (mean) and its gradient to beta, float32 [K], from the same forward pass.

    For loops that step beta themselves, as :class:`sprout_fast.SproutLoss` does: the loss is
    differentiable in ``logits``, the gradient is a plain value.
    """
    arguments = (
        logits,
        labels,
        partner_labels,
        lam,
        beta.detach(),
        rng_state,
        alpha,
        scale,
        label_mode,
        beta_grad,
        "mean",
    )
    if forward_gives_gradient(logits):
        return _GradientInForward.apply(*arguments, True)
    loss, grad_beta = _sprout_loss(*arguments, True, False)
    return loss, grad_beta.detach()


class _GradientInForward(torch.autograd.Function):
    """sprout_loss whose forward pass leaves the gradients, so that backward only scales them: in
    place, for no second tensor of the logits' size, and not at all where the loss is what backward
    starts from."""

    @staticmethod
    def forward(ctx, *arguments):
        *arguments, wants_grad_beta = arguments
        output = call_op(
            torch.ops.sprout_fast.sprout_loss.default, *arguments, wants_grad_beta, True
        )
        loss, grad_beta, _, grad_logits = output
        _setup_context(ctx, (*arguments, None, None), output)
        ctx.mark_non_differentiable(grad_beta)
        ctx.set_materialize_grads(False)  # grad_beta's would be zeros
        ctx.gradients = grad_logits, grad_beta if wants_grad_beta else None
        return loss, grad_beta

    @staticmethod
    def backward(ctx, grad_loss, _):
        if grad_loss is None:  # behind a function that passes none on
            return (None,) * 12
        (grad_logits, grad_beta), ctx.gradients = ctx.gradients, (None, None)
        wants_beta = ctx.needs_input_grad[4] and ctx.beta_grad != "none"
        # A second backward finds the gradients given away; with create_graph the op has to refuse.
        if torch.is_grad_enabled() or grad_logits is None or (wants_beta and grad_beta is None):
            return _backward(ctx, grad_loss)[:-1]
        grad_logits = scale_(grad_logits, grad_loss)
        grad_beta = scale_(grad_beta, grad_loss) if wants_beta else None
        nothing = (None,) * 7
        return grad_logits, None, None, None, grad_beta, *nothing


def _accumulate_dtype(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


_ROW_STATS = 7  # RowStat in csrc/ops/sprout_loss.h


@torch.library.register_fake("sprout_fast::sprout_loss")
def _(
    logits,
    labels,
    partner_labels,
    lam,
    beta,
    rng_state,
    alpha,
    scale,
    label_mode,
    beta_grad,
    reduction,
    return_grad_beta,
    return_grad_logits,
):
    check_one_device(
        "sprout_loss",
        logits=logits,
        labels=labels,
        partner_labels=partner_labels,
        lam=lam,
        beta=beta,
        rng_state=rng_state,
    )
    batch, classes = logits.shape
    dtype = _accumulate_dtype(logits)
    has_grad = return_grad_beta and beta_grad != "none"
    return (
        logits.new_empty([batch] if reduction == "none" else [], dtype=dtype),
        beta.new_empty([classes if has_grad else 0]),
        logits.new_empty([batch, _ROW_STATS], dtype=dtype),
        logits.new_empty([batch if return_grad_logits else 0, classes]),
    )


@torch.library.register_fake("sprout_fast::sprout_loss_backward")
def _(
    grad_loss,
    logits,
    labels,
    partner_labels,
    lam,
    beta,
    rng_state,
    row_stats,
    alpha,
    scale,
    label_mode,
    beta_grad,
    reduction,
):
    classes = logits.shape[1]
    return (
        torch.empty(logits.shape, dtype=logits.dtype, device=logits.device),
        beta.new_empty([classes if beta_grad != "none" else 0]),
    )


def _setup_context(ctx, inputs, output):
    *tensors, alpha, scale, label_mode, beta_grad, reduction, _, _ = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.scalars = (alpha, scale, label_mode)
    ctx.beta_grad, ctx.reduction = beta_grad, reduction


def _backward(ctx, grad_loss, *_):
    wants_beta = ctx.needs_input_grad[4] and ctx.beta_grad != "none"
    grad_logits, grad_beta = call_op(
        torch.ops.sprout_fast.sprout_loss_backward.default,
        grad_loss,
        *ctx.saved_tensors,
        *ctx.scalars,
        ctx.beta_grad if wants_beta else "none",
        ctx.reduction,
    )
    nothing = (None,) * 7
    return grad_logits, None, None, None, grad_beta if wants_beta else None, None, *nothing


_sprout_loss = register_autograd("sprout_loss", _backward, _setup_context, outputs=2)
refuse_second_derivative("sprout_loss_backward")
