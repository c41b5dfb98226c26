"""METHOD.md's Table 1 as code: one small class a row, in a file of its own, by name in ``METHODS``.

The vicinal-risk frame has four parts: x̃ and ỹ, the pair that is drawn near an image and its label,
and g and h, which the generalised cross entropy H = -sum_k log g(f(x̃)_k) h(ỹ_k) applies to the
network's probabilities and to the label. A row says its four in its docstring; its mixer and attack
make x̃ and ỹ, its loss holds g and h. The training loop calls ``training_step`` and knows no more.

A new method is a file in this folder with a class ``class Mine(Method, name="mine")``: the options
that its ``__init__`` names, with its docstring's words, become the command line's.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from typing import Any

from sprout_fast.errors import UserError
from sprout_fast.methods.base import METHODS, Method, MethodSetting, Optimize

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["METHODS", "Method", "MethodSetting", "Optimize", "build_method"]


def build_method(name: str, setting: MethodSetting, **options: Any) -> Method:
    """The method called ``name``, with its own ``options``.

    Args:
        name: a key of ``METHODS``.
        setting: what every method is told about the run.
        **options: the method's own options, the keyword-only ones of its ``__init__``.

    Raises:
        UserError: an unknown name (with the nearest), an option that this method has not, or a
            value outside its range.

    >>> setting = MethodSetting(num_classes=10, mean=(0.5,) * 3, std=(0.25,) * 3)
    >>> build_method("ga", setting, sigma=0.05).mixer
    SproutMixup(
      sigma=0.05, mixup_alpha=0.0, noise='marginal'
      (rng): PhiloxState(seed, offset, first_row = [0, 0, 0])
    )
    """
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"--method {name}: takes {', '.join(METHODS)}{hint}")
    method = METHODS[name]
    taken = list(inspect.signature(method).parameters)[1:]
    for option in options:
        if option not in taken:
            raise UserError(
                f"--{option.replace('_', '-')}: method {name} has no such option"
                f" (it has {', '.join(sorted(taken)) or 'none'})"
            )
    try:
        built = method(setting, **options)
    except ValueError as error:
        raise UserError(f"--method {name}: {error}") from error
    if setting.accumulation_steps > 1 and built.passes > 1:
        raise UserError(
            f"--accumulation-steps {setting.accumulation_steps}: not with --method {name}, which"
            f" takes {built.passes} optimizer steps on each batch"
        )
    return built
