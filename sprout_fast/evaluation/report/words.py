"""Attacks and balls in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NORMS = {"linf": "l-inf", "l2": "l2"}

_ATTACKS = {
    "apgd_ce": "Auto-PGD on cross entropy",
    "apgd_t": "Auto-PGD on the targeted DLR loss",
    "autoattack": "the official AutoAttack",
    "cw_l2": "C&W, the smallest l2 change",
    "fab_t": "FAB, the smallest change towards each target",
    "noise": "random points of the ball",
    "pgd": "PGD",
    "square": "Square, which sees no gradient",
    "transfer": "made against the other model",
}
# By option; in the plural, of which one takes away the last letters.
_COUNTS = {
    "steps": ("step", "steps"),
    "restarts": ("start", "starts"),
    "binary_searches": ("binary search", "binary searches"),
    "queries": ("query", "queries"),
    "target_classes": ("target class", "target classes"),
    "draws": ("draw", "draws"),
}


def in_words(parameters: Mapping[str, Any]) -> str:
    """An attack's parameters, as `AttackMeasurement.parameters` gives them.

    >>> in_words({"attack": "pgd", "norm": "linf", "eps": 0.03,
    ...           "options": {"steps": 20, "step_size": 0.006, "restarts": 1, "loss": "margin"}})
    'PGD; l-inf, eps 0.03; 20 steps; step size 0.006; 1 start; loss margin'
    """
    parts = [_ATTACKS.get(parameters["attack"], parameters["attack"])]
    parts.append(ball_in_words(parameters["norm"], parameters["eps"]))
    for name, value in parameters["options"].items():
        if name in _COUNTS:
            parts.append(f"{value:,} {_COUNTS[name][value != 1]}")
        elif isinstance(value, bool):
            parts.append(name.replace("_", " ") if value else f"no {name.replace('_', ' ')}")
        elif value is not None:
            shown = f"{value:.4g}" if isinstance(value, float) else value
            parts.append(f"{name.replace('_', ' ')} {shown}")
    return "; ".join(parts)


def ball_in_words(norm: str, eps: float) -> str:
    """A ball, its radius as a fraction of 255 where it is one.

    >>> ball_in_words("linf", 8 / 255), ball_in_words("l2", 0.5)
    ('l-inf, eps 8/255', 'l2, eps 0.5')
    """
    levels = eps * 255
    whole = norm == "linf" and abs(levels - round(levels)) < 1e-9 * levels
    return f"{NORMS[norm]}, eps {f'{round(levels)}/255' if whole else f'{eps:.4g}'}"
