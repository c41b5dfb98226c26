"""Architectures by name."""

from __future__ import annotations

import difflib

from torch import nn

from sprout_fast.errors import UserError
from sprout_fast.models.families import Architecture, Channels, families


def list_archs() -> tuple[str, ...]:
    """The names that `create_model` takes; of cifar_resnetD and cifar_wrnD_K the published ones.

    >>> "resnet152" in list_archs(), "cifar_wrn34_10" in list_archs()
    (True, True)
    >>> "fasterrcnn_resnet50_fpn" in list_archs()
    False
    """
    return tuple(name for family in families() for name in family.listed())


def is_arch(name: str) -> bool:
    """Whether `create_model` takes ``name``.

    >>> is_arch("cifar_wrn34_7"), is_arch("wrn34_7")
    (True, False)
    """
    return any(family.find(name) is not None for family in families())


def _find(arch: str) -> Architecture:
    for family in families():
        found = family.find(arch) if isinstance(arch, str) else None
        if found is not None:
            return found
    wanted, names = str(arch).lower(), list_archs()
    nearest = [name for name in names if name.endswith(f"_{wanted}")]
    nearest = nearest or difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else "for example resnet50"
    taken = ", ".join(family.TAKEN for family in families())
    raise UserError(f"arch: got {arch!r}, takes {taken}; {hint}")


def create_model(arch: str, num_classes: int, *, image_size: int | None = None) -> nn.Module:
    """A classification model with fresh weights, in training mode.

    Args:
        arch: a name out of `list_archs()`, or any cifar_resnetD with D = 6n+2 and cifar_wrnD_K
            with D = 6n+4, K >= 1.
        num_classes: outputs of the classifier, >= 2.
        image_size: side of the square input in pixels, checked against what the architecture can
            take. The parameters of vit_* and maxvit_t depend on it (224 where it is None).

    Returns:
        a module that takes normalised images [B,3,H,W] and always gives one tensor, logits
        [B,num_classes]: googlenet and inception_v3 come without their auxiliary heads. These two
        take images normalised by ImageNet's mean and std like all others and convert them inside
        (torchvision's `transform_input`), as their published weights need.

    Raises:
        UserError: unknown arch, num_classes that is not an int >= 2, an image size that the
            architecture cannot take.

    >>> model = create_model("cifar_resnet20", 10)
    >>> sum(parameter.numel() for parameter in model.parameters())
    269722
    """
    found = _find(arch)
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
        raise UserError(f"num_classes: got {num_classes!r}, takes an int >= 2")
    if image_size is not None and found.smallest is not None and image_size < found.smallest:
        raise UserError(
            f"arch {arch}: got image size {image_size}, takes {found.smallest} pixels and more"
        )
    try:
        return found.build(num_classes, image_size)
    except (AssertionError, ValueError) as error:
        if image_size is None:
            raise
        message = " ".join(str(error).split())
        raise UserError(f"arch {arch}: does not take image size {image_size}: {message}") from error


def default_normalization(arch: str) -> tuple[Channels, Channels]:
    """(mean, std) a channel, in [0,1] units.

    Of a cifar_* arch CIFAR-10's; of the others those of its default torchvision weights, which are
    ImageNet's for all but efficientnet_v2_l, whose published weights were trained with 0.5, 0.5.

    >>> default_normalization("resnet152")
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    """
    found = _find(arch)
    return found.mean, found.std
