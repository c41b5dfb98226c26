"""Create models by the name of their architecture, which belongs to one of several families."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from torch import nn

from sprout_fast.errors import UserError
from sprout_fast.registry import Registry, nearest

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Architecture:
    """One architecture, with the normalization of its images per channel, in [0, 1] units.

    ``build(num_classes, image_size)`` returns it with new weights. ``smallest`` is the smallest
    image size in pixels; None if ``build`` checks that itself and raises ``ValueError`` or
    ``AssertionError``.
    """

    build: Callable[[int, int | None], nn.Module]
    mean: Channels
    std: Channels
    smallest: int | None


@dataclass(frozen=True)
class Family:
    """A family of architectures, which imports no more than torch before one is asked for.

    ``names`` are the names in words, for error messages. ``listed`` returns all names, or the
    published ones if there is no end of them; ``find`` returns the architecture of a name, or None.
    """

    names: str
    listed: Callable[[], tuple[str, ...]]
    find: Callable[[str], Architecture | None]


#: Families by name, in the order in which they are asked for an architecture.
FAMILIES: Registry[Family] = Registry("family", "sprout_fast.models.families")


@functools.cache
def torchvision_models() -> ModuleType:
    """Import ``torchvision.models``, for the families that build on it."""
    try:
        from torchvision import models
    except ImportError as error:
        raise UserError(
            f"this model requires torchvision, which cannot be imported ({error}): "
            "pip install torchvision"
        ) from error
    return models


def list_archs() -> tuple[str, ...]:
    """Return the names that :func:`create_model` accepts.

    Of the endlessly many ``cifar_resnetD`` and ``cifar_wrnD_K``, the published ones.

    >>> "resnet152" in list_archs(), "fasterrcnn_resnet50_fpn" in list_archs()
    (True, False)
    """
    return tuple(name for family in FAMILIES.values() for name in family.listed())


def is_arch(name: str) -> bool:
    """Return whether :func:`create_model` accepts ``name``.

    >>> is_arch("cifar_wrn34_7"), is_arch("wrn34_7")
    (True, False)
    """
    return any(family.find(name) is not None for family in FAMILIES.values())


def _find(arch: str) -> Architecture:
    for family in FAMILIES.values():
        found = family.find(arch) if isinstance(arch, str) else None
        if found is not None:
            return found
    wanted, names = str(arch).lower(), list_archs()
    prefixed = [name for name in names if name.endswith(f"_{wanted}")]
    hint = f"; did you mean {prefixed[0]}?" if prefixed else nearest(wanted, names, count=3)
    accepted = ", ".join(family.names for family in FAMILIES.values())
    raise UserError(f"{arch}: expected {accepted}{hint or ', for example resnet50'}", option="arch")


def create_model(arch: str, num_classes: int, *, image_size: int | None = None) -> nn.Module:
    """Create a classification model with new weights, in training mode.

    Args:
        arch: a name in :func:`list_archs`, or any ``cifar_resnetD`` with D = 6n+2 and
            ``cifar_wrnD_K`` with D = 6n+4, K >= 1.
        num_classes: number of classes, >= 2.
        image_size: side of the square images in pixels, checked against what the architecture
            supports. The parameters of ``vit_*`` and ``maxvit_t`` depend on it. Default: 224 for
            these, unchecked for the others.

    Returns:
        A module that maps normalized images [B, 3, H, W] to one tensor, logits [B, num_classes].
        ``googlenet`` and ``inception_v3`` have no auxiliary heads. They expect images normalized by
        ImageNet's mean and std like all others, and convert them to the range of their published
        weights (torchvision's ``transform_input``).

    Raises:
        UserError: an unknown architecture, ``num_classes`` that is not an int >= 2, or an image
            size that the architecture does not support.

    >>> model = create_model("cifar_resnet20", 10)
    >>> sum(parameter.numel() for parameter in model.parameters())
    269722
    """
    found = _find(arch)
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
        raise UserError(f"num_classes: got {num_classes!r}, expected an int >= 2")
    if image_size is not None and found.smallest is not None and image_size < found.smallest:
        raise UserError(
            f"{image_size}: {arch} expects at least {found.smallest} pixels", option="image_size"
        )
    try:
        return found.build(num_classes, image_size)
    except (AssertionError, ValueError) as error:
        if image_size is None or isinstance(error, UserError):
            raise
        message = " ".join(str(error).split())
        raise UserError(
            f"{image_size}: not supported by {arch}: {message}", option="image_size"
        ) from error


def default_normalization(arch: str) -> tuple[Channels, Channels]:
    """Return an architecture's mean and std per channel, in [0, 1] units.

    CIFAR-10's for ``cifar_*``, else those of the default torchvision weights. These are ImageNet's
    for all but ``efficientnet_v2_l``, whose published weights were trained with 0.5 and 0.5.

    Raises:
        UserError: an unknown architecture.

    >>> default_normalization("resnet152")
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    """
    found = _find(arch)
    return found.mean, found.std
