"""The classes that targeted attacks go for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sprout_fast.errors import UserError

TARGETS = ("random", "least_likely")


def choose_targets(
    name: str,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    target: str | Tensor | None,
    generator: torch.Generator,
) -> Tensor | None:
    """Of each image the class to go for, never its label: int64 [B]; None where `target` is.

    Args:
        name: of the attack, for errors.
        model: images -> logits [B,K]. "random" shows it one image, to learn K.
        images: [B,C,H,W].
        labels: int64 [B].
        target: None; "random", uniform among the others, by `generator`; "least_likely", the other
            class of the smallest logit; or the classes themselves.

    Raises:
        TypeError, ValueError: classes that are not int64 [B], or of which one is the label.
        UserError: an unknown name.
    """
    if target is None:
        return None
    if isinstance(target, Tensor):
        if target.dtype != torch.int64:
            raise TypeError(f"{name}: target: got {target.dtype}, takes int64")
        if target.shape != labels.shape:
            raise ValueError(
                f"{name}: target: got {list(target.shape)}, takes {list(labels.shape)}"
            )
        same = (target == labels).nonzero().flatten()
        if len(same) > 0:
            raise ValueError(
                f"{name}: target: got the label itself for {len(same)} images "
                f"(image {same[0]}: class {labels[same[0]]}), takes other classes"
            )
        return target.clone()
    if target not in TARGETS:
        raise UserError(
            f"{name}: target: got {target!r}, takes one of {', '.join(TARGETS)}, classes or None"
        )
    with torch.no_grad():
        if target == "least_likely":
            return model(images).scatter(1, labels[:, None], torch.inf).argmin(1)
        classes = model(images[:1]).shape[1]
    if classes < 2:
        raise ValueError(f"{name}: target: got a model of {classes} class, takes 2 or more")
    drawn = torch.randint(
        1, classes, labels.shape, generator=generator, device=generator.device
    ).to(labels.device)
    return (labels + drawn) % classes
