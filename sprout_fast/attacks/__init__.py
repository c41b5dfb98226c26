"""Attacks on models that take images in [0,1].

Each attack is a function in a file of its own, `attack(model, images, labels, *, generator,
**options) -> images`, which ``@register("name")`` enters into `ATTACKS`; a new one is a new file.
`Attack` binds one to a model and its options.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import torch
from torch import Tensor, nn

from sprout_fast.attacks.base import ATTACKS, check_options

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


class Attack:
    """An attack of `ATTACKS` with its options and its own random numbers, ready for a loader.

    Args:
        name: a key of ATTACKS.
        model: takes images in [0,1], gives logits.
        seed: of the random numbers. They go on from batch to batch: make a new Attack for an
            evaluation that is to be repeated exactly.
        options: the attack's own keyword arguments.

    Call: (images float [B,C,H,W] in [0,1], labels int64 [B]) -> images of the same kind.

    Raises:
        UserError: unknown name or option.

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


__all__ = ["ATTACKS", "Attack"]
