"""Build a training method by its name."""

from __future__ import annotations

import inspect
from typing import Any

from sprout_fast.errors import UserError
from sprout_fast.methods.base import METHODS, Method, MethodSetting
from sprout_fast.registry import nearest


def build_method(name: str, setting: MethodSetting, **options: Any) -> Method:
    """Build the method called ``name``.

    Args:
        name: a key of :data:`METHODS`.
        setting: properties of the run.
        **options: the method's own options, the keyword-only arguments of its class.

    Raises:
        UserError: an unknown method, an option that the method does not have, a value outside its
            range, or gradient accumulation with a method that takes several optimizer steps on a
            batch.

    >>> setting = MethodSetting(num_classes=10, mean=(0.5,) * 3, std=(0.25,) * 3)
    >>> build_method("ga", setting, sigma=0.05).mixer
    SproutMixup(
      sigma=0.05, mixup_alpha=0.0, noise='marginal'
      (rng): PhiloxState(seed, offset, first_row = [0, 0, 0])
    )
    """
    method = METHODS.look_up(name)
    accepted = list(inspect.signature(method).parameters)[1:]
    for option, value in options.items():
        if option not in accepted:
            raise UserError(
                f"{value}: method {name} has no such option, expected one of "
                f"{', '.join(sorted(accepted)) or 'none'}{nearest(option, accepted)}",
                option=option,
            )
    try:
        built = method(setting, **options)
    except ValueError as error:
        raise UserError(f"{name}: {error}", option="method") from error
    if setting.accumulation_steps > 1 and built.passes > 1:
        raise UserError(
            f"{setting.accumulation_steps}: not supported by method {name}, which takes "
            f"{built.passes} optimizer steps per batch",
            option="accumulation_steps",
        )
    return built
