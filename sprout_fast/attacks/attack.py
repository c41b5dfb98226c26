"""An attack bound to a model and its options."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sprout_fast.attacks.base import ATTACKS, check_options


class Attack:
    """An attack with its options and its own random numbers, ready for a data loader.

    The random numbers continue from batch to batch; create a new ``Attack`` to repeat an
    evaluation exactly.

    Args:
        name: a key of :data:`ATTACKS`.
        model: maps images in [0, 1] to logits [B, K].
        seed: seed of the random numbers.
        **options: keyword arguments of the attack.

    Call it with images, float32 or float64 [B, C, H, W] in [0, 1], and labels, int64 [B]. It
    returns adversarial images of the same shape and dtype.

    Raises:
        UserError: unknown attack or option, or an option's value that is none of its names.

    >>> import torch
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
