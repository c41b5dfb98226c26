"""Architectures and the families that they are found in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from torch import nn

from sprout_fast.errors import UserError
from sprout_fast.registry import Registry

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Args:
        build: ``build(num_classes, image_size)`` returns it with new weights. The image size is in
            pixels, or None.
        mean: normalization of its images per channel, in [0, 1] units.
        std: likewise.
        smallest: smallest image size in pixels; None if ``build`` checks that itself and raises
            ``ValueError`` or ``AssertionError``.
    """

    build: Callable[[int, int | None], nn.Module]
    mean: Channels
    std: Channels
    smallest: int | None


@dataclass(frozen=True)
class Family:
    """A family of architectures, which imports no more than torch before one is asked for.

    Args:
        names: the names in words, for error messages.
        listed: returns all names, or the published ones if there is no end of them.
        find: returns the architecture of a name, or None if the family has no such name.
    """

    names: str
    listed: Callable[[], tuple[str, ...]]
    find: Callable[[str], Architecture | None]


#: Families by name, in the order in which they are asked for an architecture.
FAMILIES: Registry[Family] = Registry("family", "sprout_fast.models.families")


@functools.cache
def torchvision_models() -> ModuleType:
    """Import ``torchvision.models``, for the families that build on it.

    Raises:
        UserError: torchvision cannot be imported.
    """
    try:
        from torchvision import models
    except ImportError as error:
        raise UserError(
            f"this model requires torchvision, which cannot be imported ({error}): "
            "pip install torchvision"
        ) from error
    return models
