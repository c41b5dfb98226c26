"""SPROUT's loss: cross entropy against self-progressing Dirichlet labels, in one fused pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sprout_fast.ops import _shared
from sprout_fast.ops.generalized_cross_entropy import Reduction

LabelMode = Literal["sample", "mean"]
BetaGrad = Literal["implicit", "expected", "none"]


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
    label_mode: LabelMode = "sample",
    beta_grad: BetaGrad = "implicit",
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute the cross entropy against labels drawn from a Dirichlet (SPROUT, eq. 6).

    Row *i*'s label is drawn as ``z ~ Dirichlet(scale * ((1 - alpha) * y + alpha * beta))`` with
    ``y = lam * onehot(labels) + (1 - lam) * onehot(partner_labels)``, and its loss is
    ``sum_k z_k * c_k`` with ``c = -log_softmax(logits)`` (eq. 4 with g = I). No [B, K] matrix of
    labels is materialized. The only intermediate of the logits' size is their gradient,
    ``softmax(logits) - z``: the forward pass computes it together with the loss (float32 and
    float64 on CPU); otherwise the backward pass does, from the same variates drawn again.

    Args:
        logits: [B, K] float64, float32, bfloat16 or float16.
        labels, partner_labels: int64 [B] in [0, K), of the images and of their Mixup partners.
        lam: float32 [B] or [1] in [0, 1], the weight of ``labels``; ``partner_labels`` has weight
            ``1 - lam``. Both are None without Mixup.
        beta: float32 [K], nonnegative and finite, the parameter that progresses.
        rng_state: int64 [3], from :meth:`sprout_fast.PhiloxState.next`; stream 1.
        alpha: share of beta in the concentration, in [0, 1].
        scale: factor of the whole concentration, in [1e-30, 1e30]. The paper uses ``scale=1,
            alpha=0.01``, the authors' code ``scale=11, alpha=1/11``.
        label_mode: ``"sample"`` draws z. ``"mean"`` uses the Dirichlet's mean instead, i.e. label
            smoothing towards beta: the control for what sampling adds.
        beta_grad: ``"implicit"`` differentiates through the draw (Figurnov et al., 2018):
            ``dL/da_k = z_k * (c_k - L) * dlog G_k/da_k``. ``"expected"`` differentiates the
            expected loss, ``(c_k - E[L]) / sum(a)``: the same expectation without sampling noise.
            ``"none"`` computes no gradient with respect to beta.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        The loss, computed in float32 (float64 for float64 logits): a scalar, or [B] for
        ``reduction="none"``. Differentiable once with respect to ``logits`` and ``beta``.

    Raises:
        RuntimeError: An argument has a wrong shape, dtype, device or value; the message names it.
            Values inside tensors are checked on CPU only; on CUDA, the rows concerned are NaN.
            A row whose concentrations are all 0 is NaN, and so is, in float32, one whose
            concentrations sum to less than 1e-33 or more than 1e36 (on CUDA not always). The
            implicit gradient, about 1 / a^2, overflows float32 for concentrations below 1e-19.

    Example:
        >>> logits = torch.zeros(2, 3, requires_grad=True)
        >>> loss = sprout_loss(logits, torch.tensor([0, 2]), None, None, torch.ones(3),
        ...                    torch.tensor([0, 0, 0]))
        >>> round(loss.item(), 4)  # uniform predictions: log 3, whatever the labels
        1.0986
    """
    tensors = logits, labels, partner_labels, lam, beta, rng_state
    arguments = SproutLossArguments(*tensors, alpha, scale, label_mode, beta_grad, reduction)
    if _shared.forward_gives_gradient(logits):
        has_grad = beta is not None and beta.requires_grad
        wants_grad_beta = has_grad and beta_grad != "none" and reduction != "none"
        return _GradientInForward.apply(logits, beta, arguments, wants_grad_beta, False)
    return _sprout_loss(*arguments, False, False)[0]


class SproutLossArguments(NamedTuple):
    """The arguments of :func:`sprout_loss` in the order of the op's schema."""

    logits: Tensor
    labels: Tensor
    partner_labels: Tensor | None
    lam: Tensor | None
    beta: Tensor
    rng_state: Tensor
    alpha: float = 0.01
    scale: float = 1.0
    label_mode: LabelMode = "sample"
    beta_grad: BetaGrad = "implicit"
    reduction: Reduction = "mean"


# The inputs of the schemas before each op's own, and those among them that are tensors.
_SHARED, _TENSORS = len(SproutLossArguments._fields), 6
_BETA = SproutLossArguments._fields.index("beta")
_BETA_GRAD = SproutLossArguments._fields.index("beta_grad") - _TENSORS  # among the options


def sprout_loss_and_grad_beta(arguments: SproutLossArguments) -> tuple[Tensor, Tensor]:
    """Compute :func:`sprout_loss` and its gradient with respect to beta in one forward pass.

    For training loops that step beta themselves. Returns the loss, differentiable with respect to
    ``logits`` only, and a float32 [K] tensor without a graph: the gradient of the mean, or of the
    sum for the other reductions ([0] for ``beta_grad="none"``).
    """
    arguments = arguments._replace(beta=arguments.beta.detach())
    if _shared.forward_gives_gradient(arguments.logits):
        return _GradientInForward.apply(arguments.logits, arguments.beta, arguments, True, True)
    loss, grad_beta = _sprout_loss(*arguments, True, False)
    return loss, grad_beta.detach()


_step_op = torch.ops.sprout_fast.sprout_loss_.default


def sprout_loss_and_step(
    logits: Tensor,
    target: tuple[Tensor, Tensor | None, Tensor | None],
    state: tuple[Tensor, Tensor, Tensor],
    options: tuple[float, float, LabelMode, BetaGrad],
    ascent: tuple[Tensor, float, Tensor, Tensor],
    step: Sequence[float],
) -> Tensor:
    """Compute the mean of :func:`sprout_loss`, and change the training state, in few launches.

    The loss is differentiable with respect to the logits; the backward pass uses beta and the
    random state as they were. Not for ``torch.compile`` and ``torch.func``, which need functional
    ops: see :func:`sprout_loss_and_grad_beta`.

    Args:
        target: labels, partner_labels, lam.
        state: beta; (seed, offset), int64 [2], which advances; first_row, int64 [1].
        options: alpha, scale, label_mode, beta_grad.
        ascent: grad_sum, float32 [K], to which weight times beta's gradient is added; weight;
            velocity, float32 [K]; lr_factor, float32 scalar.
        step: empty, or (divisor, size, momentum, weight_decay, smallest, largest_total): beta and
            velocity then take a step on ``grad_sum / divisor``, and grad_sum becomes 0.
    """
    arguments = *target, *state, *options, *ascent, step
    if torch.is_grad_enabled() and logits.requires_grad:
        loss = _TrainingStep.apply(logits, arguments)
    else:
        with torch._C._AutoDispatchBelowAutograd():
            loss = _step_op(logits, *arguments, False)[0]
    torch.autograd.graph.increment_version(state[0])
    return loss


class _TrainingStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, arguments):
        keeps = _shared.keeps_gradient(logits)
        with torch._C._AutoDispatchBelowAutograd():
            loss, *others, grad_logits = _step_op(logits, *arguments, keeps)
        ctx.save_for_backward(logits, *arguments[:3], *others)
        ctx.options = arguments[6:9]
        ctx.grad_logits = grad_logits if keeps else None
        ctx.set_materialize_grads(False)
        return loss

    @staticmethod
    def backward(ctx, *grad_outputs):
        (grad_loss,) = grad_outputs
        if grad_loss is None:  # the loss went into a function that passes no gradient on
            return None, None
        grad_logits, ctx.grad_logits = ctx.grad_logits, None
        # A second backward pass finds it handed out; with create_graph the op has to refuse.
        if grad_logits is not None and not torch.is_grad_enabled():
            return _shared.scaled([grad_logits], grad_loss)[0], None
        *tensors, row_stats = ctx.saved_tensors
        options = *ctx.options, "none", "mean"
        inputs = *tensors, *options, row_stats, grad_loss
        return _shared.call_op("sprout_loss_backward", *inputs)[0], None


@torch.library.register_fake("sprout_fast::sprout_loss_")
def _(
    logits, labels, partner_labels, lam, beta, rng, first_row, alpha, scale, label_mode, beta_grad,
    grad_sum, weight, velocity, lr_factor, step, return_grad_logits,
):  # fmt: skip
    _shared.check_one_device(
        "sprout_loss_", logits=logits, labels=labels, partner_labels=partner_labels, lam=lam,
        beta=beta, rng=rng, first_row=first_row, grad_sum=grad_sum, velocity=velocity,
        lr_factor=lr_factor,
    )  # fmt: skip
    loss, *rest = _shared.fake_loss(logits, "mean", _ROW_STATS, return_grad_logits)
    return loss, torch.empty_like(beta), rng.new_empty([3]), *rest


def step_beta_(
    beta: Tensor, grad_sum: Tensor, velocity: Tensor, lr_factor: Tensor, step: Sequence[float]
) -> None:
    """Take a step of beta, and set ``grad_sum`` to 0: see :func:`sprout_loss_and_step`."""
    torch.ops.sprout_fast.sprout_loss_step_(beta, grad_sum, velocity, lr_factor, step)
    if not torch.compiler.is_compiling():  # otherwise the traced copy does it
        torch.autograd.graph.increment_version(beta)


@torch.library.register_fake("sprout_fast::sprout_loss_step_")
def _(beta, grad_sum, velocity, lr_factor, step):
    _shared.check_one_device(
        "sprout_loss_step_", beta=beta, grad_sum=grad_sum, velocity=velocity, lr_factor=lr_factor
    )


class _GradientInForward(torch.autograd.Function):
    """:func:`sprout_loss` with the gradients computed in the forward pass.

    The backward pass only scales them, and not at all if it starts from the loss itself. The
    tensors that it differentiates by are inputs of their own: each further one costs time.
    """

    @staticmethod
    def forward(ctx, logits, beta, arguments, wants_grad_beta, returns_grad_beta):
        with torch._C._AutoDispatchBelowAutograd():
            output = _op(*arguments, wants_grad_beta, True)
        _setup_context(ctx, arguments, output)
        loss, grad_beta, _, grad_logits = output
        ctx.set_materialize_grads(False)  # the gradient of grad_beta would be zeros
        ctx.gradients = grad_logits, grad_beta if wants_grad_beta else None
        if not returns_grad_beta:
            return loss
        ctx.mark_non_differentiable(grad_beta)
        return loss, grad_beta

    @staticmethod
    def backward(ctx, *grad_outputs):
        grad_loss = grad_outputs[0]
        if grad_loss is None:  # the loss went into a function that passes no gradient on
            return (None,) * 5
        (grad_logits, grad_beta), ctx.gradients = ctx.gradients, (None, None)
        wants_beta = ctx.needs_input_grad[1] and ctx.options[_BETA_GRAD] != "none"
        # A second backward pass finds them handed out; with create_graph the op has to refuse.
        if torch.is_grad_enabled() or grad_logits is None or (wants_beta and grad_beta is None):
            return *_recomputed(ctx, grad_loss, wants_beta), None, None, None
        if not wants_beta:
            return _shared.scaled([grad_logits], grad_loss)[0], None, None, None, None
        return *_shared.scaled([grad_logits, grad_beta], grad_loss), None, None, None


_ROW_STATS = 7  # RowStat in csrc/ops/sprout_loss_args.h


@torch.library.register_fake("sprout_fast::sprout_loss")
def _(*inputs):
    *shared, return_grad_beta, return_grad_logits = inputs
    arguments = SproutLossArguments(*shared)
    _shared.check_one_device("sprout_loss", **arguments._asdict())
    logits, reduction = arguments.logits, arguments.reduction
    loss, *rest = _shared.fake_loss(logits, reduction, _ROW_STATS, return_grad_logits)
    return loss, _fake_grad_beta(arguments, return_grad_beta), *rest


@torch.library.register_fake("sprout_fast::sprout_loss_backward")
def _(*inputs):
    arguments = SproutLossArguments(*inputs[:_SHARED])
    return arguments.logits.new_empty(arguments.logits.shape), _fake_grad_beta(arguments)


def _fake_grad_beta(arguments: SproutLossArguments, wanted: bool = True) -> Tensor:
    wanted = wanted and arguments.beta_grad != "none"
    return arguments.beta.new_empty([arguments.logits.shape[1] if wanted else 0])


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:_TENSORS], output[2])
    ctx.options = inputs[_TENSORS:_SHARED]


def _backward(ctx, grad_loss, *_):
    wants_beta = ctx.needs_input_grad[_BETA] and ctx.options[_BETA_GRAD] != "none"
    gradients: list[Tensor | None] = [None] * (_SHARED + 2)  # one per input of the op
    gradients[0], gradients[_BETA] = _recomputed(ctx, grad_loss, wants_beta)
    return tuple(gradients)


def _recomputed(ctx, grad_loss: Tensor, wants_beta: bool) -> tuple[Tensor, Tensor | None]:
    *tensors, row_stats = ctx.saved_tensors
    arguments = SproutLossArguments(*tensors, *ctx.options)
    if not wants_beta:
        arguments = arguments._replace(beta_grad="none")
    inputs = *arguments, row_stats, grad_loss
    grad_logits, grad_beta = _shared.call_op("sprout_loss_backward", *inputs)
    return grad_logits, grad_beta if wants_beta else None


_op = torch.ops.sprout_fast.sprout_loss.default
_sprout_loss = _shared.register_autograd("sprout_loss", _backward, _setup_context, outputs=2)
