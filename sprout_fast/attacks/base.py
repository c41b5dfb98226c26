"""Attacks by name, checks of their arguments, and the model's state during an attack."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sprout_fast.errors import UserError
from sprout_fast.models.logits import check_model, returning_logits
from sprout_fast.models.mode import evaluation_mode, frozen_parameters, restored
from sprout_fast.registry import Registry, nearest

#: Attacks by name: ``attack(model, images, labels, *, generator=None, seed=0, **options)`` returns
#: images. An attack in a ball has the options ``norm`` and ``eps``.
ATTACKS: Registry[Callable[..., Tensor]] = Registry("attack", "sprout_fast.attacks")


def check_options(name: str, options: dict[str, Any]) -> None:
    """Raise ``UserError`` for an unknown attack or option, or a value that is none of its names.

    Options that an attack with ``**options`` does not name itself are those of the attack that its
    option ``attack`` names.
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


class Attack:
    """An attack with its options and its own random numbers, ready for a data loader.

    Call it with images, float32 or float64 [B, C, H, W] in [0, 1], and labels, int64 [B]. It
    returns adversarial images of the same shape and dtype. The random numbers continue from batch
    to batch; create a new ``Attack`` to repeat an evaluation exactly.

    Args:
        name: a key of :data:`ATTACKS`.
        model: maps images in [0, 1] to logits [B, K].
        seed: seed of the random numbers.
        **options: keyword arguments of the attack.

    Raises:
        UserError: unknown attack or option, or an option's value that is none of its names.

    >>> attack = Attack("pgd", torch.nn.Flatten(), steps=2, eps=0.25)
    >>> images = attack(torch.full((3, 2, 1, 1), 0.5), torch.tensor([0, 1, 0]))
    >>> print(attack, tuple(images.shape))
    pgd(steps=2, eps=0.25) (3, 2, 1, 1)
    """

    def __init__(self, name: str, model: nn.Module, *, seed: int = 0, **options: Any) -> None:
        check_options(name, options)
        self.name, self.model, self.options = name, model, options
        self._function, self._seed = ATTACKS[name], seed
        self._generator: torch.Generator | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        if self._generator is None or self._generator.device != images.device:
            self._generator = torch.Generator(images.device).manual_seed(self._seed)
        return self._function(self.model, images, labels, generator=self._generator, **self.options)

    def __str__(self) -> str:
        options = (f"{key}={_short(value)}" for key, value in self.options.items())
        return f"{self.name}({', '.join(options)})"


def _short(value: object) -> str:
    if isinstance(value, nn.Module):
        return type(value).__name__
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextmanager
def borrowed(
    name: str,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator | None,
    seed: int,
) -> Iterator[tuple[Tensor, Tensor, torch.Generator]]:
    """Check an attack's images and put the model into the state in which it is attacked.

    Inside, the model is in eval mode, its parameters require no gradient, autograd is on, autocast
    and TF32 are off: attacks run in the images' own float32 or float64. The model returns its
    logits alone (:func:`~sprout_fast.models.logits.logits_of`), which are checked in the first
    forward pass, as are the labels. Afterwards everything is as before, also after an exception.
    ``name`` is the attack's, for error messages.

    Yields copies of ``images`` and of ``labels`` as int64 without a graph, and ``generator``, by
    default a new one on the images' device with this seed. Raises what :func:`check_images` does.
    """
    check_model(model)
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
        returning_logits(model, labels),
    ):
        # Copies: an inference tensor, from a caller's inference_mode, cannot enter a graph.
        yield images.detach().clone(), labels.clone().long(), generator


def value_and_gradient(
    model: Callable[[Tensor], Tensor],
    points: Tensor,
    value: Callable[[Tensor], Tensor],
    scaled: bool = False,
    eot_iter: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Evaluate ``value``, which maps logits [B, K] to [B], at ``points`` [B, C, H, W].

    Returns logits [B, K], values [B] and their gradients [B, C, H, W], without a graph. Gradients
    are 0 under ``torch.no_grad``, and where the logits do not depend on the points through
    autograd. ``scaled`` multiplies them by 1024, for attacks that only use their direction.
    With ``eot_iter`` passes, values and gradients are means over them, and logits are the last's.
    """
    if eot_iter > 1:
        each = [value_and_gradient(model, points, value, scaled) for _ in range(eot_iter)]
        logits, values, gradients = zip(*each, strict=True)
        return logits[-1], torch.stack(values).mean(0), torch.stack(gradients).mean(0)
    # A network that computes in float16 would round small gradients to 0. A power of 2, so that
    # nothing else changes.
    scale = 1024.0 if scaled else 1.0
    points = points.detach().requires_grad_()
    logits = model(points)
    values = value(logits)
    if values.requires_grad:
        # A sum, not a mean: an image's gradient must not depend on the batch size.
        (gradient,) = torch.autograd.grad(scale * values.sum(), points, materialize_grads=True)
    else:
        gradient = torch.zeros_like(points)
    return logits.detach(), values.detach(), gradient


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute CUDA's float32 matrix products and convolutions in float32 inside, not in TF32."""
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    with restored(backends, "allow_tf32"):
        for backend in backends:
            backend.allow_tf32 = False
        yield


def check_images(name: str, images: Tensor, labels: Tensor) -> None:
    """Raise unless images are float32 or float64 [B, C, H, W] in [0, 1], with one label each."""
    for argument, value in (("images", images), ("labels", labels)):
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            raise TypeError(
                f"{name}: got {argument} as {kind}, expected a tensor (torch.as_tensor)"
            )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{name}: got {labels.dtype} labels, expected int64")
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


def check_floats(name: str, **options: float) -> None:
    """Raise ``ValueError`` unless each option is a finite number >= 0."""
    for option, value in options.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name}: {option}: got {value}, expected a finite number >= 0")


def check_ints(name: str, low: int, **options: int) -> None:
    """Raise ``ValueError`` unless each option is at least ``low``."""
    for option, value in options.items():
        if value < low:
            raise ValueError(f"{name}: {option}: got {value}, expected an int >= {low}")
