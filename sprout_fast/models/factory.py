"""Create models by the name of their architecture, which belongs to one of several families."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType

from torch import Tensor, nn

from sprout_fast.errors import UserError
from sprout_fast.registry import Registry, nearest

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Architecture:
    """One architecture, with the normalization of its images per channel, in [0, 1] units.

    ``build(num_classes, image_size)`` returns it with new weights. ``smallest`` is the smallest
    image size in pixels; None if ``build`` checks that itself and raises ``ValueError`` or
    ``AssertionError``.

    ``image_size``, ``crop`` and ``interpolation`` are those with which published weights are
    evaluated: images are resized to a short side of ``image_size / crop``, and their center is
    cropped. ``published(image_size)`` loads these weights; None if they are to be given as a file.
    """

    build: Callable[[int, int | None], nn.Module]
    mean: Channels
    std: Channels
    smallest: int | None
    image_size: int = 224
    crop: float = 224 / 256
    interpolation: str = "bilinear"
    published: Callable[[int | None], Mapping[str, Tensor]] | None = None


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

    Of the endlessly many ``cifar_resnetD`` and ``cifar_wrnD_K``, the published ones. Not listed are
    ``timm:NAME``, with any name in ``timm.list_models()``, and ``package.module:function``.

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


def is_code(arch: str) -> bool:
    """Return whether ``arch`` names a function, ``package.module:function``, to be imported.

    >>> is_code("package.module:function"), is_code("timm:convnext_tiny"), is_code("resnet50")
    (True, False, False)
    """
    return isinstance(arch, str) and ":" in arch and not arch.startswith("timm:")


def find_arch(arch: str) -> Architecture:
    """Return the architecture of a name, or raise a UserError that says which are accepted."""
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
        arch: a name in :func:`list_archs`, any ``cifar_resnetD`` with D = 6n+2 and
            ``cifar_wrnD_K`` with D = 6n+4, K >= 1, ``timm:NAME`` for a classifier of timm, or
            ``package.module:function``: the function is imported, from the working directory too,
            and called with ``num_classes``.
        num_classes: number of classes, >= 2.
        image_size: side of the square images in pixels, checked against what the architecture
            supports. The parameters of ``vit_*`` and ``maxvit_t`` depend on it, and those of some
            of timm's networks. Default: 224 for the former, that of the published weights for the
            latter, unchecked for the others.

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
    found = find_arch(arch)
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

    CIFAR-10's for ``cifar_*``, else those of the published weights. With torchvision's these are
    ImageNet's for all but ``efficientnet_v2_l``, which was trained with 0.5 and 0.5. A function
    may have its own in its attributes ``mean`` and ``std``; else they are ImageNet's.

    Raises:
        UserError: an unknown architecture.

    >>> default_normalization("resnet152")
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    """
    found = find_arch(arch)
    return found.mean, found.std
