"""torchvision's classification architectures by name."""

from __future__ import annotations

import difflib
import functools
from types import ModuleType
from typing import Any

from torch import nn

from sprout_fast.errors import UserError

# Families whose parameters depend on the image size.
_VIT, _MAXVIT = "vit_", "maxvit_"


@functools.cache
def _torchvision_models() -> ModuleType:
    try:
        from torchvision import models
    except ImportError as error:
        raise UserError(
            f"models come from torchvision, which cannot be imported ({error}): "
            "pip install torchvision"
        ) from error
    return models


@functools.cache
def list_archs() -> tuple[str, ...]:
    """The names that `create_model` takes.

    >>> "resnet152" in list_archs(), "fasterrcnn_resnet50_fpn" in list_archs()
    (True, False)
    """
    models = _torchvision_models()
    # The models of the top module alone: detection, segmentation, video, optical flow and
    # quantized models are registered from submodules.
    return tuple(models.list_models(module=models))


def _check_arch(arch: str) -> None:
    if arch in list_archs():
        return
    nearest = difflib.get_close_matches(str(arch).lower(), list_archs(), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else "for example resnet50"
    raise UserError(
        f"arch: got {arch!r}, takes one of torchvision's {len(list_archs())} "
        f"classification models; {hint}"
    )


def _check_image_size(arch: str, image_size: int | None) -> None:
    # For the two families with an image size of their own, the constructor knows what it takes.
    if image_size is None or arch.startswith((_VIT, _MAXVIT)):
        return
    weights = _torchvision_models().get_model_weights(arch).DEFAULT
    smallest = max(weights.meta["min_size"])
    if image_size < smallest:
        raise UserError(
            f"arch {arch}: got image size {image_size}, takes {smallest} pixels and more"
        )


def create_model(arch: str, num_classes: int, *, image_size: int | None = None) -> nn.Module:
    """A torchvision classification model with fresh weights, in training mode.

    Args:
        arch: a name out of `list_archs()`.
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

    >>> model = create_model("squeezenet1_1", 10)
    >>> sum(parameter.numel() for parameter in model.parameters())
    727626
    """
    _check_arch(arch)
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
        raise UserError(f"num_classes: got {num_classes!r}, takes an int >= 2")
    _check_image_size(arch, image_size)
    options: dict[str, Any] = {}
    if arch in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "transform_input": True, "init_weights": True}
    elif image_size is not None and arch.startswith(_VIT):
        options = {"image_size": image_size}
    elif image_size is not None and arch.startswith(_MAXVIT):
        options = {"input_size": (image_size, image_size)}
    try:
        return _torchvision_models().get_model(
            arch, weights=None, num_classes=num_classes, **options
        )
    except (AssertionError, ValueError) as error:
        if image_size is None:
            raise
        message = " ".join(str(error).split())
        raise UserError(f"arch {arch}: does not take image size {image_size}: {message}") from error


def default_normalization(
    arch: str,
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """(mean, std) a channel, in [0,1] units, of the arch's default torchvision weights.

    ImageNet's for all but efficientnet_v2_l, whose published weights were trained with 0.5, 0.5.

    >>> default_normalization("resnet152")
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    """
    _check_arch(arch)
    transforms = _torchvision_models().get_model_weights(arch).DEFAULT.transforms()
    return tuple(transforms.mean), tuple(transforms.std)
