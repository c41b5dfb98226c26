"""Accuracy against a number: what most of the paper's figures draw."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from reproduction.exhibits.base import Cell
from sprout_fast.evaluation.report.plots.base import METHODS, OURS, accuracy_axis
from sprout_fast.paper import METHOD_NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from reproduction.findings import Findings


def draw_curves(xlabel: str) -> Callable[[Findings], Figure]:
    """A line for each row with its intervals, over the columns' numbers."""

    def draw(findings: Findings) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.5, 4.4), layout="constrained")
        axes = figure.subplots()
        for row in findings.exhibit.rows():
            cells = [cell for cell in findings.exhibit.cells if cell.row == row]
            plot_cells(axes, findings, cells, [number_in(cell.column) for cell in cells], row)
        accuracy_axis(axes)
        axes.set_xlabel(xlabel)
        axes.legend()
        return figure

    return draw


def plot_cells(
    axes: Axes, findings: Findings, cells: list[Cell], places: list[float], label: str
) -> None:
    """Points with their intervals, joined."""
    values = [findings.value(cell) for cell in cells]
    numbers = [value.number for value in values]
    below = [value.number - value.low for value in values]
    above = [value.high - value.number for value in values]
    method = next((one for one, name in METHOD_NAMES.items() if name == label), None)
    style = METHODS.get(method, OURS)
    axes.errorbar(places, numbers, (below, above), capsize=2, elinewidth=0.8, label=label, **style)


def number_in(column: str) -> float:
    """The last word, as a number.

    >>> number_in("alpha 0.01")
    0.01
    """
    return float(column.split()[-1])
