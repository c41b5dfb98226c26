"""The architectures that `create_model` knows: one module here for each family of names.

A module of this package, found without being named anywhere, gives

    TAKEN: str                                     what names it has, for the message of an error
    listed() -> tuple[str, ...]                    its names, or the usual ones of endlessly many
    find(arch: str) -> Architecture | None         the architecture of that name

and imports no more than torch before it is called.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from torch import nn

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    `build(num_classes, image_size)` gives it with fresh weights. `mean` and `std` are what its
    images are normalised by, in [0,1] units. `smallest` is the least image size that it takes, in
    pixels; None where `build` checks that itself, by raising ValueError or AssertionError.
    """

    build: Callable[[int, int | None], nn.Module]
    mean: Channels
    std: Channels
    smallest: int | None


def families() -> list[ModuleType]:
    """The modules of this package, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [importlib.import_module(f"{__name__}.{name}") for name in names]
