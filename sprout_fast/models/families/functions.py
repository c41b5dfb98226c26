"""Networks of other packages and of the user, by the name ``package.module:function``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from sprout_fast.errors import UserError
from sprout_fast.models.factory import FAMILIES, Architecture, Family, is_code
from sprout_fast.registry import nearest

# ImageNet's, as for torchvision's networks.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def find(arch: str) -> Architecture | None:
    """Import the function, or class, and return its network.

    It is called with the keyword argument ``num_classes`` and returns a module. Images are
    normalized by its attributes ``mean`` and ``std``, if it has them, else by ImageNet's.

    Raises:
        UserError: there is no such module, or no such function in it.
    """
    if not is_code(arch):
        return None
    module_name, _, name = arch.partition(":")
    function = _imported(arch, module_name, name)
    return Architecture(
        build=lambda num_classes, _: _build(arch, function, num_classes),
        mean=getattr(function, "mean", _MEAN),
        std=getattr(function, "std", _STD),
        smallest=None,
    )


def _imported(arch: str, module_name: str, name: str) -> Callable[..., Any]:
    # A program's path begins with its own folder, not with the one in which it is run.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:  # ValueError: an empty name
        raise UserError(
            f"{arch}: {module_name} cannot be imported: {error}", option="arch"
        ) from None
    function = getattr(module, name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value)]
        near = nearest(name, functions)
        raise UserError(f"{arch}: {module_name} has no function {name!r}{near}", option="arch")
    return function


def _build(arch: str, function: Callable[..., Any], num_classes: int) -> nn.Module:
    try:
        model = function(num_classes=num_classes)
    except TypeError as error:
        raise UserError(
            f"{arch}: cannot be called with num_classes={num_classes}: {error}", option="arch"
        ) from error
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise UserError(f"{arch}: returned a {kind}, expected a torch.nn.Module", option="arch")
    return model


FAMILIES.register("functions")(
    Family(
        names="package.module:function (which returns a network of num_classes classes)",
        listed=lambda: (),
        find=find,
    )
)
