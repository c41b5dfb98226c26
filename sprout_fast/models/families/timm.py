"""timm's classifiers, by the name ``timm:NAME``, with or without the tag of their weights."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from sprout_fast.errors import UserError
from sprout_fast.models.factory import FAMILIES, Architecture, Family
from sprout_fast.registry import nearest

_PREFIX = "timm:"


@functools.cache
def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f"timm:NAME requires timm, which cannot be imported ({error}): pip install timm",
            option="arch",
        ) from error
    return timm


def find(arch: str) -> Architecture | None:
    """Return the network, with the normalization and the input size of its published weights.

    Raises:
        UserError: timm is not installed or has no such network.
    """
    if not arch.startswith(_PREFIX):
        return None
    name = arch.removeprefix(_PREFIX)
    if not _timm().is_model(name):
        near = nearest(name.partition(".")[0], _timm().list_models())
        raise UserError(f"{arch}: timm has no such network{near}", option="arch")
    config = _timm().get_pretrained_cfg(name).to_dict()  # of the default weights without a tag
    smallest = config.get("min_input_size")
    return Architecture(
        build=functools.partial(_build, name, config),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        smallest=None if smallest is None else max(smallest[1:]),
        image_size=config["input_size"][-1],
        crop=config["crop_pct"],
        interpolation=config["interpolation"],
        published=functools.partial(_published, name, config),
    )


def _build(
    name: str, config: Mapping[str, Any], num_classes: int | None, image_size: int | None, **options
) -> nn.Module:
    if num_classes is not None:
        options["num_classes"] = num_classes
    if config.get("fixed_input_size") and image_size not in (None, config["input_size"][-1]):
        options["img_size"] = image_size
    return _timm().create_model(name, **options)


def _published(
    name: str, config: Mapping[str, Any], image_size: int | None
) -> Mapping[str, Tensor]:
    try:
        return _build(name, config, None, image_size, pretrained=True).state_dict()
    # timm and the hub raise anything: no network, no such weights, a full disk.
    except Exception as error:
        raise UserError(f"timm: the weights of {name} cannot be loaded: {error}") from error


FAMILIES.register("timm")(
    Family(names="timm:NAME (any classifier of timm)", listed=lambda: (), find=find)
)
