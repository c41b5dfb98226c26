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
    surrogate: nn.Module,
    attack: str = "pgd",
    generator: torch.Generator | None = None,
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """The images that an attack makes on `surrogate`, in the hope that `model` errs at them too.

    `model` is never asked: the result does not depend on it, and one surrogate's images judge any
    number of models. `pgd` goes on by default where the surrogate has fallen (``early_stop=False``):
    what is barely wrong there is right elsewhere.

    Args:
        model: what the images are meant for.
        images, labels, generator, seed: as the attack takes them.
        surrogate: takes images in [0,1], gives logits; on the images' device.
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
    >>> transfer(torch.nn.Identity(), images, labels, surrogate=other, eps=0.25).squeeze()
    tensor([0.2500, 0.7500])
    """
    check_options(attack, options)
    if attack == "pgd":
        options = {"early_stop": False} | options
    return ATTACKS[attack](surrogate, images, labels, generator=generator, seed=seed, **options)
