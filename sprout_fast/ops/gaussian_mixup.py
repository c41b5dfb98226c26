"""Gaussian noise, Mixup, normalisation and the cast of an image batch, in one pass over memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from sprout_fast.ops._autograd import call_op, refuse_second_derivative, register_autograd
from sprout_fast.ops._fake import check_one_device


def _channels(
    name: str, value: float | Sequence[float] | Tensor | None, default: float
) -> list[float]:
    if value is None:
        return [default]
    if isinstance(value, Tensor):
        return value.double().flatten().tolist()
    try:
        return [float(v) for v in value] if isinstance(value, Iterable) else [float(value)]
    except (TypeError, ValueError):
        raise ValueError(
            f"sprout_fast::gaussian_mixup: {name} must be one number or one a channel, got "
            f"{value!r}"
        ) from None


def gaussian_mixup(
    images: Tensor,
    partner: Tensor | None,
    lam: Tensor | None,
    rng_state: Tensor,
    *,
    sigma: float | Sequence[float] = 0.1,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    noise: str = "marginal",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The vicinity that SPROUT draws its inputs from (METHOD Table 1: (1-lam) N(x_i) + lam N(x_j)).

    ``out_i = (lam_i (x_i + sigma n_i) + (1 - lam_i) (x_p + sigma n_p) - mean) / std`` with
    ``p = partner_i`` and standard normal n; nothing is clipped.

    Args:
        images: [B, C, H, W], C <= 16, any strides; uint8 is divided by 255, floating types are
            taken as they are.
        partner: int64 [B], each in [0, B); or None: no Mixup.
        lam: float32 [B] or [1] in [0, 1], the weight of the image itself; None together with
        partner.
        rng_state: int64 [3], from :meth:`PhiloxState.next`; stream 0. Not read where sigma is 0.
        sigma: noise's standard deviation in units of the image (of [0, 1]), one number or one a
            channel, >= 0. 0 switches the noise off.
        mean, std: of the normalisation, one number or one a channel; None: 0 and 1.
        noise: ``"paired"``: an image's noise is one draw, the same wherever the image is used
            (Algorithm 1 to the letter). ``"marginal"``: one draw for each output, with standard
            deviation sigma sqrt(lam^2 + (1 - lam)^2), and sigma where an image is its own partner:
            the same distribution of each output, with half the random numbers.
        dtype: of the output: float32, bfloat16, float16 or float64.

    Returns:
        [B, C, H, W] of ``dtype`` in channels-last memory. Differentiable in floating ``images``.

    Raises:
        RuntimeError: a wrong shape, dtype, device or scalar, named; on CPU also a partner outside
            [0, B) or a lam outside [0, 1]. On CUDA, where looking would stall the stream, such an
            image's output is NaN.
        ValueError: a sigma, mean or std that is no number and holds none.

    >>> x = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    >>> state = torch.tensor([0, 0, 0])
    >>> gaussian_mixup(x, torch.tensor([1, 0]), torch.tensor([0.7]), state).shape
    torch.Size([2, 3, 4, 4])
    """
    return _gaussian_mixup(
        images,
        partner,
        lam,
        rng_state,
        _channels("sigma", sigma, 0.0),
        _channels("mean", mean, 0.0),
        _channels("std", std, 1.0),
        noise,
        dtype,
    )


@torch.library.register_fake("sprout_fast::gaussian_mixup")
def _(images, partner, lam, rng_state, sigma, mean, std, noise, dtype):
    check_one_device("gaussian_mixup", images=images, partner=partner, lam=lam, rng_state=rng_state)
    return torch.empty(
        images.shape, dtype=dtype, device=images.device, memory_format=torch.channels_last
    )


@torch.library.register_fake("sprout_fast::gaussian_mixup_backward")
def _(grad, partner, lam, std, dtype):
    return torch.empty(
        grad.shape, dtype=dtype, device=grad.device, memory_format=torch.channels_last
    )


def _setup_context(ctx, inputs, output):
    images, partner, lam, _, _, _, std, _, _ = inputs
    ctx.save_for_backward(partner, lam)
    ctx.std = std
    ctx.image_dtype = images.dtype


def _backward(ctx, grad):
    partner, lam = ctx.saved_tensors
    grad_images = None
    if ctx.needs_input_grad[0]:
        op = torch.ops.sprout_fast.gaussian_mixup_backward.default
        grad_images = call_op(op, grad, partner, lam, ctx.std, ctx.image_dtype)
    return grad_images, None, None, None, None, None, None, None, None


_gaussian_mixup = register_autograd("gaussian_mixup", _backward, _setup_context)
refuse_second_derivative("gaussian_mixup_backward")
