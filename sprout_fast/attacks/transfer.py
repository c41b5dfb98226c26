"""Transfer attack: adversarial images made on another model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sprout_fast.attacks.base import ATTACKS, check_options


@ATTACKS.register("transfer")
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
    """Attack ``surrogate``, and return the images as an attack on ``model``.

    The idea is that ``model`` misclassifies some of them too (Szegedy et al., "Intriguing
    properties of neural networks", ICLR 2014). ``model`` is never evaluated, so the result does
    not depend on it, and images of one surrogate can be used against any number of models. ``pgd``
    runs with ``early_stop=False`` by default: images that only just cross the surrogate's decision
    boundary transfer poorly.

    Args:
        model: the model under attack; not used.
        images, labels, generator, seed: as in :func:`~sprout_fast.attacks.pgd.pgd`.
        surrogate: maps images in [0, 1] to logits [B, K], on the images' device.
        attack: a key of :data:`ATTACKS`.
        **options: keyword arguments of the attack.

    Returns:
        The attack's result on the surrogate, [B, C, H, W] in [0, 1].

    Raises:
        TypeError, ValueError, UserError: as the attack; an unknown attack or option.

    >>> images, labels = torch.full((1, 2, 1, 1), 0.5), torch.tensor([0])
    >>> surrogate = torch.nn.Flatten()  # the two channels are the logits
    >>> transfer(torch.nn.Identity(), images, labels, surrogate=surrogate, eps=0.25).squeeze()
    tensor([0.2500, 0.7500])
    """
    check_options(attack, options)
    if attack == "pgd":
        options = {"early_stop": False} | options
    return ATTACKS[attack](surrogate, images, labels, generator=generator, seed=seed, **options)
