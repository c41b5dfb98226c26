"""Gaussian noise, Mixup, normalization and cast of a batch of images in one pass over memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from sprout_fast.ops._shared import call_op, check_one_device, register_autograd

Noise = Literal["marginal", "paired"]


def gaussian_mixup(
    images: Tensor,
    partner: Tensor | None,
    lam: Tensor | None,
    rng_state: Tensor,
    *,
    sigma: float | Sequence[float] = 0.1,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    noise: Noise = "marginal",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Add Gaussian noise to a batch of images, mix each with a partner, and normalize.

    This is the vicinity that SPROUT draws its inputs from (Cheng et al., 2021, Table 1)::

        out_i = (lam_i * (x_i + sigma * n_i) + (1 - lam_i) * (x_p + sigma * n_p) - mean) / std

    with ``p = partner_i`` and standard normal n: ``lam = 1`` is the image itself and ``lam = 0`` is
    its partner. Nothing is clipped.

    Args:
        images: [B, C, H, W] with C <= 16, any strides. uint8 images are divided by 255, floating
            ones are used unchanged.
        partner: int64 [B] in [0, B), the index of each image's partner; None for no Mixup.
        lam: float32 [B] or [1] in [0, 1], the weight of the image itself; its partner has weight
            ``1 - lam``. None if and only if ``partner`` is None.
        rng_state: int64 [3], from :meth:`sprout_fast.PhiloxState.next`; stream 0. Not read if
            ``sigma`` is 0.
        sigma: standard deviation of the noise on images in [0, 1], nonnegative; one number or one
            per channel. 0 disables the noise.
        mean, std: mean and standard deviation to normalize by; one number or one per channel. None
            means 0 and 1.
        noise: ``"paired"`` draws one noise image per input image and uses it wherever the image is
            used, as Algorithm 1 does. ``"marginal"`` draws one per output with standard deviation
            ``sigma * sqrt(lam^2 + (1 - lam)^2)`` (``sigma`` for an image that is its own partner):
            the same distribution of each output, with half the random numbers.
        dtype: dtype of the output: float32, bfloat16, float16 or float64.

    Returns:
        [B, C, H, W] of ``dtype`` in channels-last memory format. Differentiable once with respect
        to floating ``images``.

    Raises:
        RuntimeError: An argument has a wrong shape, dtype, device or value; the message names it.
            Values inside tensors are checked on CPU only; on CUDA, the image concerned is NaN.
        ValueError: ``sigma``, ``mean`` or ``std`` is neither a number nor a sequence of numbers.

    Example:
        >>> x = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
        >>> state = torch.tensor([0, 0, 0])
        >>> gaussian_mixup(x, torch.tensor([1, 0]), torch.tensor([0.7]), state).shape
        torch.Size([2, 3, 4, 4])
    """
    numbers = _channels("sigma", sigma), _channels("mean", mean), _channels("std", std, 1.0)
    return _gaussian_mixup(images, partner, lam, rng_state, *numbers, noise, dtype)


def _channels(
    name: str, value: float | Sequence[float] | Tensor | None, default: float = 0.0
) -> list[float]:
    if value is None:
        return [default]
    if isinstance(value, float):
        return [value]
    if isinstance(value, Tensor):
        return value.double().flatten().tolist()
    try:
        # list and tuple first: the test of an abstract class takes longer.
        several = isinstance(value, (list, tuple, Iterable))
        return [float(v) for v in value] if several else [float(value)]
    except (TypeError, ValueError):
        raise ValueError(
            f"sprout_fast::gaussian_mixup: {name} must be one number or one per channel, got "
            f"{value!r}"
        ) from None


@torch.library.register_fake("sprout_fast::gaussian_mixup")
def _(images, partner, lam, rng_state, sigma, mean, std, noise, dtype):
    check_one_device("gaussian_mixup", images=images, partner=partner, lam=lam, rng_state=rng_state)
    return torch.empty_like(images, dtype=dtype, memory_format=torch.channels_last)


@torch.library.register_fake("sprout_fast::gaussian_mixup_backward")
def _(grad, partner, lam, std, dtype):
    return torch.empty_like(grad, dtype=dtype, memory_format=torch.channels_last)


def _setup_context(ctx, inputs, output):
    images, partner, lam, *_, std, _noise, _dtype = inputs
    ctx.save_for_backward(partner, lam)
    ctx.std, ctx.image_dtype = std, images.dtype


def _backward(ctx, grad):
    if not ctx.needs_input_grad[0]:
        return (None,) * 9
    inputs = grad, *ctx.saved_tensors, ctx.std, ctx.image_dtype
    return call_op("gaussian_mixup_backward", *inputs), *(None,) * 8


def _jvp(inputs, outputs, tangent):
    _, partner, lam, rng_state, _, _, std, noise, dtype = inputs
    # The op is affine in the images: without noise and mean, it maps their tangent.
    inputs = tangent, partner, lam, rng_state, [0.0], [0.0], std, noise, dtype
    return call_op("gaussian_mixup", *inputs)


_gaussian_mixup = register_autograd("gaussian_mixup", _backward, _setup_context, jvp=_jvp)
