"""torchvision's classification models."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn

from sprout_fast.models.factory import FAMILIES, Architecture, Family, torchvision_models


@functools.cache
def listed() -> tuple[str, ...]:
    """Return the names of all of them."""
    models = torchvision_models()
    # Models of the top module only: detection, segmentation, video, optical flow and quantized
    # models are registered from submodules.
    return tuple(models.list_models(module=models))


def find(arch: str) -> Architecture | None:
    """Return the architecture, with the normalization of its default published weights."""
    if arch not in listed():
        return None
    weights = torchvision_models().get_model_weights(arch).DEFAULT
    transforms = weights.transforms()
    sized = arch.startswith(("vit_", "maxvit_"))  # their constructors check the image size
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
    elif image_size is not None and arch.startswith("vit_"):
        options = {"image_size": image_size}
    elif image_size is not None and arch.startswith("maxvit_"):
        options = {"input_size": (image_size, image_size)}
    return torchvision_models().get_model(arch, weights=None, num_classes=num_classes, **options)


FAMILIES.register("torchvision")(
    Family(names="or any torchvision classification model", listed=listed, find=find)
)
