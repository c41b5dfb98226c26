"""The table of figures, their style, and drawing functions that they share."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sprout_fast.evaluation.accuracy import Accuracy
from sprout_fast.evaluation.recorder import AccuracyRecord
from sprout_fast.evaluation.report.comparison import dataset_like
from sprout_fast.evaluation.results import Results
from sprout_fast.paper import CIFAR10, METHOD_NAMES
from sprout_fast.registry import Registry

# Legible at a width of 368 pixels, as on a phone, where a point is slightly more than a pixel.
WIDTH, HEIGHT = 4.4, 3.3  # inches
DPI = 200
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
}

# Okabe & Ito's color-blind safe palette. Each series also has its own marker.
OURS: dict[str, Any] = {"color": "#0072B2", "marker": "o"}
ALSO_OURS: dict[str, Any] = {"color": "#56B4E9", "marker": "<"}
METHODS: dict[str, dict[str, Any]] = {
    "natural": {"color": "#777777", "marker": "v"},
    "pgd_at": {"color": "#E69F00", "marker": "^"},
    "trades": {"color": "#009E73", "marker": "D"},
    "free_at": {"color": "#CC79A7", "marker": "P"},
    "sprout": {"color": "#D55E00", "marker": "s"},
}


class Drawing(NamedTuple):
    """A figure of one evaluation."""

    figure: Figure
    alt: str  # alternative text that states what it shows, with the numbers
    note: str = ""  # remark on this evaluation, shown after the caption


Draw = Callable[[Results], Drawing | None]  # returns None if its measurements are missing


class Plot(NamedTuple):
    """A kind of figure."""

    name: str  # stem of its file
    place: int  # position in the report
    title: str
    caption: str  # what it shows, and how to read it
    paper: str  # the paper's numbers that it shows or compares with
    draw: Draw


PLOTS: Registry[Plot] = Registry("plot", "sprout_fast.evaluation.report.plots")


def register(*, place: int, title: str, caption: str, paper: str) -> Callable[[Draw], Draw]:
    """Enter a drawing function into ``PLOTS`` under its name; see :class:`Plot`."""

    def enter(function: Draw) -> Draw:
        draw, name = matplotlib.rc_context(STYLE)(function), function.__name__
        PLOTS.register(name)(Plot(name, place, title, caption, paper, draw))
        return draw

    return enter


def plots() -> list[Plot]:
    """Return all plots in the order of the report."""
    return sorted(PLOTS.values(), key=lambda plot: plot.place)


@matplotlib.rc_context(STYLE)
def png(drawing: Drawing) -> bytes:
    """Return the figure as a PNG file."""
    buffer = io.BytesIO()
    drawing.figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    return buffer.getvalue()


def new_axes(height: float = HEIGHT, **options) -> tuple[Figure, Axes]:
    """Return a figure of the report's width with a single axes."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot(**options)


def legend_below(figure: Figure) -> None:
    """Draw the legend below the axes, with the paper's entries last."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    entries = sorted(zip(labels, handles, strict=True), key=lambda one: one[0].startswith("paper"))
    labels, handles = zip(*entries, strict=True)
    style = {"ncols": 2, "fontsize": 9, "handlelength": 1.4, "columnspacing": 1}
    figure.legend(handles, labels, loc="outside lower center", **style)


def accuracy_axis(axes: Axes) -> None:
    """Scale the y axis from 0 to 100 %; a partial scale would exaggerate small differences."""
    axes.set_ylim(-3, 103)
    axes.set_ylabel("accuracy (%)")


def accuracy_line(
    axes: Axes, xs: Sequence[float], accuracies: Sequence[Accuracy], label: str, **style
) -> str:
    """Draw accuracies with their 95 % intervals, connected in the order of x.

    Returns:
        The points for an alternative text, e.g. ``"31.0 % at 20, 30.5 % at 100"``.
    """
    points = sorted(zip(xs, accuracies, strict=True), key=lambda point: point[0])
    ys = [100 * accuracy.top1 for _, accuracy in points]
    below, above = zip(*(errors(accuracy) for _, accuracy in points), strict=True)
    style = {"label": label, "capsize": 2, "elinewidth": 0.8, **style}
    axes.errorbar([x for x, _ in points], ys, (below, above), **style)
    return ", ".join(f"{100 * accuracy.top1:.1f} % at {x:.3g}" for x, accuracy in points)


def errors(accuracy: Accuracy) -> tuple[float, float]:
    """Return the extent of the interval below and above the accuracy, in percentage points."""
    low, high = accuracy.interval
    return 100 * (accuracy.top1 - low), 100 * (high - accuracy.top1)


def paper_points(
    axes: Axes, method: str, xs: Sequence[float], ys: Sequence[float], linestyle: str = "--"
) -> None:
    """Draw the paper's numbers for a method, hollow and dashed."""
    style = {"linestyle": linestyle, "linewidth": 0.9, "markerfacecolor": "white"}
    axes.plot(xs, ys, label=f"paper: {METHOD_NAMES[method]}", **style, **METHODS[method])


def attacks_of(results: Results, kind: str, names: Iterable[str]) -> list[AccuracyRecord]:
    """Return the named records that exist and are attacks of a kind."""
    found = (results.attacks.get(name) for name in names)
    return [one for one in found if one is not None and one.parameters["attack"] == kind]


def strongest_of_each_kind(results: Results) -> list[AccuracyRecord]:
    """Return the record with most errors for each kind of attack, sorted by errors.

    Attacks in the evaluation's norm with a larger eps are left out.
    """
    best: dict[str, tuple[int, AccuracyRecord]] = {}
    for record in results.attacks.values():
        kind, norm, eps = (record.parameters[key] for key in ("attack", "norm", "eps"))
        if norm == results.norm and eps > results.eps * (1 + 1e-6):
            continue
        errors_found = int(record.columns["misclassified"].sum()) if len(record.rows) > 0 else 0
        if kind not in best or errors_found > best[kind][0]:
            best[kind] = (errors_found, record)
    return [record for _, record in sorted(best.values(), key=lambda one: -one[0])]


def cifar10_only_note(results: Results) -> str:
    """Return a note for plots whose paper numbers are left out since they are for CIFAR-10."""
    return "" if dataset_like(results) == CIFAR10 else "The paper reports this for CIFAR-10 only."


def eps_label(norm: str, what: str = "eps") -> str:
    """Return the label of an axis of perturbation sizes."""
    return f"{what} ({'l-inf' if norm == 'linf' else norm}, images in [0,1])"
