"""What all attacks share: the registry, checks of their arguments, and the model's state."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sprout_fast.errors import UserError
from sprout_fast.models.mode import evaluation_mode, frozen_parameters
from sprout_fast.registry import Registry, nearest

#: Attacks by name: ``attack(model, images, labels, *, generator=None, seed=0, **options)`` returns
#: images. An attack in a ball has the options ``norm`` and ``eps``.
ATTACKS: Registry[Callable[..., Tensor]] = Registry("attack", "sprout_fast.attacks")


def check_options(name: str, options: dict[str, Any]) -> None:
    """Check that an attack exists, has these options, and that those with names have a valid one.

    Options that an attack with ``**options`` does not name itself are those of the attack that its
    option ``attack`` names.

    Raises:
        UserError: unknown attack, option or name.
    """
    function = ATTACKS.look_up(name)
    parameters = inspect.signature(function).parameters
    accepted = [
        key
        for key, parameter in parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and key not in ("generator", "seed")
    ]
    others = {key: value for key, value in options.items() if key not in accepted}
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        check_options(options.get("attack", parameters["attack"].default), others)
    elif others:
        option = next(iter(others))
        raise UserError(
            f"option of attack {name}: got {option!r}, expected one of {', '.join(accepted)}"
            f"{nearest(option, accepted)}"
        )
    hints = typing.get_type_hints(function)
    for option in accepted:
        value, names = options.get(option), _names(hints[option])
        if isinstance(value, str) and names and value not in names:
            raise UserError(
                f"{option}: got {value!r}, expected one of {', '.join(names)}"
                f"{nearest(value, names)}"
            )


def _names(hint: Any) -> tuple[str, ...]:
    """Return the names in a ``Literal``, or in those that are part of a union."""
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    return tuple(name for part in typing.get_args(hint) for name in _names(part))


@contextmanager
def borrowed(
    name: str,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator | None,
    seed: int,
) -> Iterator[tuple[Tensor, Tensor, torch.Generator]]:
    """Check an attack's arguments and put the model into the state in which it is attacked.

    Inside, the model is in eval mode, its parameters require no gradient, autograd is on, autocast
    and TF32 are off: attacks run in the images' own float32 or float64. Afterwards everything is
    as before, also after an exception. ``name`` is the attack's, for error messages.

    Yields:
        Copies of ``images`` and ``labels`` without a graph; ``generator``, or a new one on the
        images' device with this seed.

    Raises:
        TypeError, ValueError: see :func:`check_images`.
    """
    check_images(name, images, labels)
    if generator is None:
        generator = torch.Generator(images.device).manual_seed(seed)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(images.device.type, enabled=False),
        full_float32(),
        evaluation_mode(model),
        frozen_parameters(model),
    ):
        # Copies: an inference tensor, from a caller's inference_mode, cannot enter a graph.
        yield images.detach().clone(), labels.clone(), generator


def value_and_gradient(
    model: Callable[[Tensor], Tensor], points: Tensor, value: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``value`` of the model's logits at ``points`` and its gradient for each image.

    The gradient is 0 under ``torch.no_grad``, and where the logits do not depend on the points
    through autograd.

    Args:
        model: maps images to logits [B, K].
        points: [B, C, H, W].
        value: maps logits to [B].

    Returns:
        Logits [B, K], values [B] and gradients [B, C, H, W], without a graph.
    """
    points = points.detach().requires_grad_()
    logits = model(points)
    values = value(logits)
    if values.requires_grad:
        # A sum, not a mean: an image's gradient must not depend on the batch size.
        (gradient,) = torch.autograd.grad(values.sum(), points, materialize_grads=True)
    else:
        gradient = torch.zeros_like(points)
    return logits.detach(), values.detach(), gradient


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute CUDA's float32 matrix products and convolutions in float32 inside, not in TF32."""
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    try:
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def check_images(name: str, images: Tensor, labels: Tensor) -> None:
    """Check that images are float32 or float64 [B, C, H, W] in [0, 1], with one label per image.

    Raises:
        TypeError: images of another dtype.
        ValueError: shapes that do not fit, or values outside [0, 1], NaN included.
    """
    if images.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"{name}: got {images.dtype} images, expected float32 or float64 in [0,1] "
            "(uint8 images: images.float() / 255)"
        )
    if images.ndim != 4 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"{name}: got images {list(images.shape)} and labels {list(labels.shape)}, "
            "expected [B,C,H,W] and [B]"
        )
    if images.numel() > 0:
        low, high = torch.stack(torch.aminmax(images)).tolist()
        if not (low >= 0 and high <= 1):  # also NaN
            raise ValueError(
                f"{name}: got images between {low:.4g} and {high:.4g}, expected [0,1] "
                "(attacks see images before normalization)"
            )


def check_number(name: str, option: str, value: float) -> None:
    """Raise ``ValueError`` unless ``value`` is a finite number >= 0."""
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name}: {option}: got {value}, expected a finite number >= 0")


def check_count(name: str, option: str, value: int, low: int = 0) -> None:
    """Raise ``ValueError`` unless ``value`` is at least ``low``."""
    if value < low:
        raise ValueError(f"{name}: {option}: got {value}, expected an int >= {low}")
