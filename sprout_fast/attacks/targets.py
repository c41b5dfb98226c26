"""Target classes of targeted attacks."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from sprout_fast.errors import UserError

Target = Literal["random", "least_likely"]


def choose_targets(
    name: str,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    target: Target | Tensor | None,
    generator: torch.Generator,
) -> Tensor | None:
    """Return a target class for each image, never its label: int64 [B], or None for no target.

    Args:
        name: the attack's name, for error messages.
        model: maps images to logits [B, K]. ``"random"`` passes it one image, to find K.
        images: [B, C, H, W].
        labels: int64 [B].
        target: ``"random"``, a uniform draw from the other classes by ``generator``;
            ``"least_likely"``, the other class with the smallest logit; the classes themselves,
            int64 [B]; or None.
        generator: random numbers for ``"random"``.

    Raises:
        TypeError: classes that are not int64.
        ValueError: classes that are not [B] or include a label, or a model of one class.
        UserError: an unknown name.
    """
    if target is None:
        return None
    if isinstance(target, Tensor):
        if target.dtype != torch.int64:
            raise TypeError(f"{name}: target: got {target.dtype}, expected int64")
        if target.shape != labels.shape:
            raise ValueError(
                f"{name}: target: got {list(target.shape)}, expected {list(labels.shape)}"
            )
        same = (target == labels).nonzero().flatten()
        if len(same) > 0:
            raise ValueError(
                f"{name}: target: got the label itself for {len(same)} images "
                f"(image {same[0]}: class {labels[same[0]]}), expected other classes"
            )
        return target.clone()
    if target not in get_args(Target):
        raise UserError(
            f"{name}: target: got {target!r}, expected one of {', '.join(get_args(Target))}, "
            "classes or None"
        )
    with torch.no_grad():
        if target == "least_likely":
            return model(images).scatter(1, labels[:, None], torch.inf).argmin(1)
        classes = model(images[:1]).shape[1]
    if classes < 2:
        raise ValueError(f"{name}: target: got a model of {classes} class, expected at least 2")
    drawn = torch.randint(
        1, classes, labels.shape, generator=generator, device=generator.device
    ).to(labels.device)
    return (labels + drawn) % classes
