"""The paper's tables and figures: a file each, with ``@register(kind, number)``."""

from __future__ import annotations

import importlib
import pkgutil

from reproduction.exhibits.base import EXHIBITS

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["EXHIBITS"]
