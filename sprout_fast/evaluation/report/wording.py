"""Descriptions of attacks and balls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ATTACKS = {
    "apgd_ce": "Auto-PGD, cross entropy",
    "apgd_t": "Auto-PGD, targeted DLR loss",
    "autoattack": "official AutoAttack",
    "cw_l2": "C&W, smallest l2 perturbation",
    "fab_t": "FAB, smallest perturbation toward each target class",
    "noise": "uniform noise in the ball",
    "pgd": "PGD",
    "square": "Square, without gradients",
    "transfer": "transfer from the surrogate model",
}
# Singular and plural, by option.
_COUNTS = {
    "steps": ("step", "steps"),
    "restarts": ("start", "starts"),
    "binary_searches": ("binary search", "binary searches"),
    "queries": ("query", "queries"),
    "target_classes": ("target class", "target classes"),
    "draws": ("draw", "draws"),
}


def describe_attack(parameters: Mapping[str, Any]) -> str:
    """Describe an attack by its parameters, as in ``AttackMeasurement.parameters()``.

    >>> describe_attack({"attack": "pgd", "norm": "linf", "eps": 0.03, "options": {
    ...     "steps": 20, "step_size": 0.006, "restarts": 1, "loss": "margin"}})
    'PGD; l-inf, eps 0.03; 20 steps; step size 0.006; 1 start; loss margin'
    """
    attack = parameters["attack"]
    parts = [_ATTACKS.get(attack, attack), describe_ball(parameters["norm"], parameters["eps"])]
    for name, value in parameters["options"].items():
        if name in _COUNTS:
            parts.append(f"{value:,} {_COUNTS[name][value != 1]}")
        elif isinstance(value, bool):
            parts.append(name.replace("_", " ") if value else f"no {name.replace('_', ' ')}")
        elif value is not None:
            shown = f"{value:.4g}" if isinstance(value, float) else value
            parts.append(f"{name.replace('_', ' ')} {shown}")
    return "; ".join(parts)


def describe_ball(norm: str, eps: float) -> str:
    """Describe a ball, with its radius as a multiple of 1/255 if it is one.

    >>> describe_ball("linf", 8 / 255), describe_ball("l2", 0.5)
    ('l-inf, eps 8/255', 'l2, eps 0.5')
    """
    levels = eps * 255
    whole = norm == "linf" and abs(levels - round(levels)) < 1e-9 * levels
    radius = f"{round(levels)}/255" if whole else f"{eps:.4g}"
    return f"{'l-inf' if norm == 'linf' else norm}, eps {radius}"
