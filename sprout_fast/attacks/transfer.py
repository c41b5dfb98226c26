"""Adversarial images made on another model (Szegedy et al. 2014)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sprout_fast.attacks.base import ATTACKS, check_options, register


@register("transfer")
def transfer(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    source: nn.Module,
    attack: str = "pgd",
    generator: torch.Generator | None = None,
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """The images that an attack makes on `source`, in the hope that `model` errs at them too.

    `model` is never asked: the result does not depend on it, and one source's images judge any
    number of models. `pgd` goes on by default where the source has fallen (``drop_fallen=False``):
    what is barely wrong there is right elsewhere.

    Args:
        model: what the images are meant for.
        images, labels, generator, seed: as the attack takes them.
        source: takes images in [0,1], gives logits; on the images' device.
        attack: a key of ATTACKS.
        options: the attack's own keyword arguments.

    Returns:
        what the attack gives.

    Raises:
        TypeError, ValueError: as the attack does.
        UserError: unknown attack or option.

    >>> import torch
    >>> images, labels = torch.full((1, 2, 1, 1), 0.5), torch.tensor([0])
    >>> other = torch.nn.Flatten()  # the two channels are the logits
    >>> transfer(torch.nn.Identity(), images, labels, source=other, eps=0.25).squeeze()
    tensor([0.2500, 0.7500])
    """
    check_options(attack, options)
    if attack == "pgd":
        options = {"drop_fallen": False} | options
    return ATTACKS[attack](source, images, labels, generator=generator, seed=seed, **options)
