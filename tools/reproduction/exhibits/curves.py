"""Curves of accuracy against a number, as in most of the paper's figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from reproduction.exhibits.base import Cell, Value
from sprout_fast.evaluation.report.plots.base import METHODS, OURS, accuracy_axis
from sprout_fast.paper import METHOD_NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from reproduction.findings import Findings


def draw_curves(xlabel: str, ticks: Sequence[int] | None = None) -> Callable[[Findings], Figure]:
    """Return a function that draws each row as a curve over the columns' numbers."""

    def draw(findings: Findings) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.5, 4.4), layout="constrained")
        axes = figure.subplots()
        for row in findings.exhibit.rows():
            cells = [cell for cell in findings.exhibit.cells if cell.row == row]
            plot_cells(axes, findings, cells, [number_in(cell.column) for cell in cells], row)
        accuracy_axis(axes)
        axes.set_xlabel(xlabel)
        if ticks is not None:
            axes.set_xticks(ticks)
        axes.legend()
        return figure

    return draw


def plot_cells(
    axes: Axes,
    findings: Findings,
    cells: list[Cell],
    places: list[float],
    label: str,
    style: dict[str, Any] | None = None,
) -> None:
    """Draw one curve with intervals, by default in the style of the method in its label."""
    values = [findings.value(cell) for cell in cells]
    numbers = [value.number for value in values]
    styles: dict[str, Any] = {METHOD_NAMES[method]: METHODS[method] for method in METHODS}
    styled: dict[str, Any] = style or styles.get(label, OURS)
    axes.errorbar(places, numbers, errors(values), capsize=2, elinewidth=0.8, label=label, **styled)


def errors(values: list[Value]) -> list[list[float]]:
    """Return the lengths of the error bars below and above values with intervals.

    >>> errors([Value(5.0, 4.0, 7.0)])
    [[1.0], [2.0]]
    """
    below, above = [], []
    for value in values:
        assert value.low is not None and value.high is not None
        below.append(value.number - value.low)
        above.append(value.high - value.number)
    return [below, above]


def number_in(column: str) -> float:
    """Return the last word as a number.

    >>> number_in("alpha 0.01")
    0.01
    """
    return float(column.split()[-1])
