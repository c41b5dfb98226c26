"""Protocols: which measurements answer a question. A new one is a file here with ``@register``.

protocol_of("strong")(Setting(norm="linf", eps=8 / 255)) -> measurements in order
"""

from __future__ import annotations

import importlib
import pkgutil

from sprout_fast.evaluation.protocols.base import PROTOCOLS, Protocol, Setting, protocol_of

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["PROTOCOLS", "Protocol", "Setting", "protocol_of"]
