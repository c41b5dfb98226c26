"""METHOD.md's Table 1 as code: one small class a row, by name in ``METHODS``.

A row differs from another by its mixer (what the network sees) and its loss (what it is told); the
training loop knows neither. A new method is a class like `Sprout` and a line in ``METHODS``.
"""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from sprout_fast.errors import UserError
from sprout_fast.methods.base import Method, MethodSetting
from sprout_fast.methods.natural import Natural
from sprout_fast.methods.sprout import Sprout

__all__ = ["METHODS", "Method", "MethodSetting", "Natural", "Sprout", "build_method"]

METHODS: dict[str, type[Method]] = {"natural": Natural, "sprout": Sprout}


def build_method(name: str, setting: MethodSetting, **options: Any) -> Method:
    """The method called ``name``, with its own ``options``.

    Args:
        name: a key of ``METHODS``.
        setting: what every method is told about the run.
        **options: the method's own options, those that its ``__init__`` names (for sprout: sigma,
            a, alpha, scale, labels_from, beta_lr, beta_grad, mass_floor).

    Raises:
        UserError: an unknown name (with the nearest), an option that this method has not, or a
            value outside its range.
    """
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"--method {name}: takes {', '.join(METHODS)}{hint}")
    taken = set(inspect.signature(METHODS[name]).parameters) - {"setting"}
    for option in options:
        if option not in taken:
            raise UserError(
                f"--{option.replace('_', '-')}: method {name} has no such option"
                f" (it has {', '.join(sorted(taken)) or 'none'})"
            )
    try:
        return METHODS[name](setting, **options)
    except ValueError as error:
        raise UserError(f"--method {name}: {error}") from error
