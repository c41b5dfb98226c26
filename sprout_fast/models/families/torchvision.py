"""torchvision's classification models, at ImageNet's size unless they take others."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from torch import nn

from sprout_fast.errors import UserError
from sprout_fast.models.families import Architecture

TAKEN = "and torchvision's classification models"

# Families whose parameters depend on the image size.
_VIT, _MAXVIT = "vit_", "maxvit_"


@functools.cache
def torchvision_models() -> ModuleType:
    """torchvision.models, for the families that build on it."""
    try:
        from torchvision import models
    except ImportError as error:
        raise UserError(
            f"this model comes from torchvision, which cannot be imported ({error}): "
            "pip install torchvision"
        ) from error
    return models


@functools.cache
def listed() -> tuple[str, ...]:
    """All of their names."""
    models = torchvision_models()
    # The models of the top module alone: detection, segmentation, video, optical flow and
    # quantized models are registered from submodules.
    return tuple(models.list_models(module=models))


def find(arch: str) -> Architecture | None:
    """The model, normalised as its default published weights were trained."""
    if arch not in listed():
        return None
    weights = torchvision_models().get_model_weights(arch).DEFAULT
    transforms = weights.transforms()
    sized = arch.startswith((_VIT, _MAXVIT))  # their constructors know what they take
    return Architecture(
        build=functools.partial(_build, arch),
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        smallest=None if sized else max(weights.meta["min_size"]),
    )


def _build(arch: str, num_classes: int, image_size: int | None) -> nn.Module:
    options: dict[str, Any] = {}
    if arch in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "transform_input": True, "init_weights": True}
    elif image_size is not None and arch.startswith(_VIT):
        options = {"image_size": image_size}
    elif image_size is not None and arch.startswith(_MAXVIT):
        options = {"input_size": (image_size, image_size)}
    return torchvision_models().get_model(arch, weights=None, num_classes=num_classes, **options)
