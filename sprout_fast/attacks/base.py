"""What attacks share: the table that they enter, their checks, and how they borrow a model."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sprout_fast.errors import UserError
from sprout_fast.models.mode import evaluation_mode, frozen_parameters

AttackFunction = Callable[..., Tensor]
ATTACKS: dict[str, AttackFunction] = {}


def register(name: str) -> Callable[[AttackFunction], AttackFunction]:
    """Enter a function into ``ATTACKS``, by which evaluation, report and command line know it.

    The function takes ``(model, images, labels, *, generator=None, seed=0, **options)`` and gives
    images; where it knows several balls, ``norm`` and ``eps`` name one.
    """

    def enter(function: AttackFunction) -> AttackFunction:
        ATTACKS[name] = function
        return function

    return enter


def check_options(name: str, options: dict[str, Any]) -> None:
    """Raise ``UserError`` for an attack that is not in ``ATTACKS`` or an option it does not take.

    An attack with ``**options`` hands them to the one that its own option ``attack`` names.
    """
    if name not in ATTACKS:
        raise UserError(_unknown("attack", name, list(ATTACKS)))
    parameters = inspect.signature(ATTACKS[name]).parameters
    taken = [
        key
        for key, parameter in parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and key not in ("generator", "seed")
    ]
    others = {key: value for key, value in options.items() if key not in taken}
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        check_options(options.get("attack", parameters["attack"].default), others)
    elif others:
        raise UserError(_unknown(f"option of attack {name}", next(iter(others)), taken))


def _unknown(what: str, got: str, taken: list[str]) -> str:
    nearest = difflib.get_close_matches(got, taken, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return f"{what}: got {got!r}, takes one of {', '.join(taken)}{hint}"


@contextmanager
def borrowed(
    name: str,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator | None,
    seed: int,
) -> Iterator[tuple[Tensor, Tensor, torch.Generator]]:
    """Check an attack's arguments, and lend it the model as every attack wants it.

    Inside, the model is in eval mode and its parameters take no gradient; autograd is on, autocast
    and TF32 are off: attacks run in the images' own float32 or float64. All is as it was after.

    Yields:
        images and labels as tensors of the attack's own, without a graph, and its generator:
        the one given, or a fresh one on the images' device, seeded with ``seed``.

    Raises:
        TypeError, ValueError: see `check_images`.
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
        # Clones: an inference tensor, as a caller's inference_mode makes, cannot enter a graph.
        yield images.detach().clone(), labels.clone(), generator


def value_and_gradient(
    model: Callable[[Tensor], Tensor], points: Tensor, value: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """``value`` [B] of the model's logits at ``points`` [B,C,H,W], and each image's own gradient.

    Under no_grad, and where the logits do not depend on the points by way of autograd, the gradient
    is 0.

    Returns:
        (logits [B,K], value [B], gradient [B,C,H,W]), without a graph.
    """
    points = points.detach().requires_grad_()
    logits = model(points)
    values = value(logits)
    if values.requires_grad:
        # Of the sum: one image's gradient does not depend on the batch that it is in.
        (gradient,) = torch.autograd.grad(values.sum(), points, materialize_grads=True)
    else:
        gradient = torch.zeros_like(points)
    return logits.detach(), values.detach(), gradient


@contextmanager
def full_float32() -> Iterator[None]:
    """CUDA's matrix products and convolutions in float32 proper inside, not in TF32."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    try:
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def check_images(name: str, images: Tensor, labels: Tensor) -> None:
    """Raise for what is not float32 or float64 [B,C,H,W] in [0,1] with one label an image."""
    if images.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"{name}: got {images.dtype} images, takes float32 or float64 in [0,1] "
            "(uint8 images: images.float() / 255)"
        )
    if images.ndim != 4 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"{name}: got images {list(images.shape)} and labels {list(labels.shape)}, "
            "takes [B,C,H,W] and [B]"
        )
    if images.numel() > 0:
        low, high = torch.stack(torch.aminmax(images)).tolist()
        if not (low >= 0 and high <= 1):  # also NaN
            raise ValueError(
                f"{name}: got images between {low:.4g} and {high:.4g}, takes [0,1] "
                "(attacks see images before normalisation)"
            )


def check_number(name: str, option: str, value: float) -> None:
    """Raise ``ValueError`` for what is not a finite number from 0 up."""
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name}: {option}: got {value}, takes a finite number >= 0")


def check_count(name: str, option: str, value: int, low: int = 0) -> None:
    """Raise ``ValueError`` for an int below ``low``."""
    if value < low:
        raise ValueError(f"{name}: {option}: got {value}, takes an int >= {low}")


def check_choice(name: str, option: str, value: str, choices: Iterable[str]) -> None:
    """Raise ``UserError`` for what is none of ``choices``."""
    choices = list(choices)
    if value not in choices:
        raise UserError(f"{name}: {option}: got {value!r}, takes one of {', '.join(choices)}")
