"""The check that a loader's saved state belongs to the loader that is to take it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sprout_fast.errors import UserError


def check_state(saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise `UserError` where a setting that fixes the order of the images differs.

    Args:
        saved: a loader's ``state_dict()``, from a checkpoint.
        own: the settings of the loader that takes it.
    """
    for name, value in own.items():
        if saved.get(name) != value:
            raise UserError(
                f"data loader: {name} was {saved.get(name)!r} when the checkpoint was written and "
                f"is {value!r} now; the order of the images can be resumed only with the same"
            )
