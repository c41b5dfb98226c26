"""The logits of a classifier, in whatever form it returns them, and one check of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sprout_fast.errors import UserError


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """Return a classifier's logits [B, K] for images [B, C, H, W], as :func:`as_logits` does.

    The images are converted to the dtype of the model's first floating parameter, so that a model
    in half precision or float64 can be given float32 images.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).half()
    >>> logits_of(model, torch.zeros(1, 1, 2, 2)).dtype
    torch.float32
    """
    return as_logits(model(_as_input(model, images)), images)


def as_logits(output: Any, images: Tensor) -> Tensor:
    """Return the logits in a classifier's output for images [B, C, H, W].

    Args:
        output: a floating tensor [B, K] with K >= 2; an object or a dict whose ``logits`` are one
            (as Hugging Face's models return); or a tuple, list or dict with exactly one of them.

    Returns:
        The logits [B, K], in the images' float32 or float64; in float32 for any other images.

    Raises:
        UserError: there are no such logits, or there is more than one candidate.

    >>> as_logits((torch.zeros(2, 5).half(), torch.zeros(2, 8, 4)), torch.zeros(2, 3, 8, 8)).dtype
    torch.float32
    """
    found: Any = output
    if isinstance(getattr(output, "logits", None), Tensor):
        found = output.logits
    elif isinstance(output, Mapping) and isinstance(output.get("logits"), Tensor):
        found = output["logits"]
    elif isinstance(output, (Mapping, tuple, list)):
        values = list(output.values() if isinstance(output, Mapping) else output)
        candidates = [value for value in values if _fits(value, images)]
        found = candidates[0] if len(candidates) == 1 else output
    if not _fits(found, images):
        count = len(images)
        raise UserError(
            f"model: got outputs {_describe(found)} for {count} image{'s'[: count != 1]}, expected "
            f"floating-point logits [{count},K] with K >= 2"
        )
    return found.to(torch.float64 if images.dtype == torch.float64 else torch.float32)


def check_model(model: Any) -> None:
    """Raise ``UserError`` unless ``model`` is a module whose outputs can be intercepted."""
    if isinstance(model, torch.jit.ScriptModule):
        raise UserError("model: got a TorchScript program, expected a module: nn.Sequential(model)")
    if not isinstance(model, nn.Module):
        raise UserError(f"model: got a {type(model).__name__}, expected a torch.nn.Module")


def check_values(logits: Tensor, labels: Tensor) -> None:
    """Raise ``UserError`` for logits [B, K] that are not finite, or labels [N] outside [0, K)."""
    if len(logits) == 0 or len(labels) == 0:
        return
    bad = (~logits.isfinite().all(1)).sum()
    count, low, high = torch.stack([bad, *torch.aminmax(labels)]).tolist()
    if low < 0 or high >= logits.shape[1]:
        raise UserError(
            f"labels: got values from {low} to {high}, expected 0 to {logits.shape[1] - 1} for a "
            f"model with {logits.shape[1]} classes"
        )
    if count:
        raise UserError(
            f"model: got NaN or infinite logits for {count} of {len(logits)} images, expected "
            "finite numbers"
        )


@contextmanager
def returning_logits(model: nn.Module, labels: Tensor) -> Iterator[None]:
    """Make ``model(images)`` return what :func:`logits_of` does, within the context.

    The first forward pass also checks the values of its logits, and ``labels`` against them.
    """
    checked, images = False, torch.empty(0)

    def before(module: nn.Module, arguments: tuple[Tensor]) -> Tensor:
        nonlocal images
        (images,) = arguments
        return _as_input(module, images)

    def after(module: nn.Module, _: Any, output: Any) -> Tensor:
        nonlocal checked
        logits = as_logits(output, images)
        if not checked:
            check_values(logits.detach(), labels)
            checked = True
        return logits

    handles = model.register_forward_pre_hook(before), model.register_forward_hook(after)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _as_input(model: nn.Module, images: Tensor) -> Tensor:
    floating = (p.dtype for p in model.parameters() if p.is_floating_point())
    return images.to(next(floating, images.dtype))


def _fits(value: Any, images: Tensor) -> bool:
    return (
        isinstance(value, Tensor)
        and value.is_floating_point()
        and value.ndim == 2
        and len(value) == len(images)
        and value.shape[1] >= 2
    )


def _describe(output: Any) -> str:
    if isinstance(output, Tensor):
        kind = "" if output.is_floating_point() else f" of {output.dtype}"
        return f"{list(output.shape)}{kind}"
    if isinstance(output, Mapping):
        parts = ", ".join(f"{key}: {_describe(value)}" for key, value in output.items())
        return f"{{{parts}}}"
    if isinstance(output, (tuple, list)):
        return f"({', '.join(map(_describe, output))})"
    return f"of type {type(output).__name__}"
