"""Figures of an evaluation. A new one is a file here with ``@register``.

for plot in plots():  # in the report's order
    drawing = plot.draw(results)  # None where its measurements are missing
"""

from __future__ import annotations

import importlib
import pkgutil

from sprout_fast.evaluation.report.plots.base import PLOTS, Drawing, Plot, png

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def plots() -> list[Plot]:
    """All of them, in the report's order."""
    return sorted(PLOTS.values(), key=lambda plot: plot.place)


__all__ = ["Drawing", "Plot", "plots", "png"]
