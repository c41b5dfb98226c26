"""What figures share: the table that they enter, their style, and the paper's points."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sprout_fast.evaluation.accuracy import Accuracy
from sprout_fast.evaluation.recorder import Record
from sprout_fast.evaluation.report.comparison import dataset_like
from sprout_fast.evaluation.results import Results
from sprout_fast.paper import CIFAR10, METHOD_NAMES

# Legible at 368 pixels, a phone's page less its margins, where a point is a little over a pixel.
WIDTH, HEIGHT = 4.4, 3.3  # inches
DPI = 200
STYLE = {
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

# Okabe & Ito's colours, which the colour-blind tell apart; each has a marker too.
OURS = {"color": "#0072B2", "marker": "o"}
ALSO_OURS = {"color": "#56B4E9", "marker": "<"}
METHODS = {
    "natural": {"color": "#777777", "marker": "v"},
    "pgd_at": {"color": "#E69F00", "marker": "^"},
    "trades": {"color": "#009E73", "marker": "D"},
    "free_at": {"color": "#CC79A7", "marker": "P"},
    "sprout": {"color": "#D55E00", "marker": "s"},
}


@dataclass(frozen=True)
class Drawing:
    """A figure of one evaluation.

    Args:
        figure: as drawn.
        alt: what it shows in words and numbers, for who does not see it.
        note: what is to be said of this one beside its plot's caption.
    """

    figure: Figure
    alt: str
    note: str = ""


@dataclass(frozen=True)
class Plot:
    """A kind of figure.

    Args:
        name: of its file.
        place: in the report.
        title: short.
        caption: what it shows and how it is read.
        paper: what of the paper stands in it or compares with it.
        draw: Results -> Drawing, or None where what it takes was not measured.
    """

    name: str
    place: int
    title: str
    caption: str
    paper: str
    draw: Callable[[Results], Drawing | None]


PLOTS: dict[str, Plot] = {}


def register(*, place: int, title: str, caption: str, paper: str) -> Callable:
    """Enter a function ``Results -> Drawing | None`` into ``PLOTS``, under its name."""

    def enter(function: Callable[[Results], Drawing | None]) -> Callable:
        @functools.wraps(function)
        def draw(results: Results) -> Drawing | None:
            with matplotlib.rc_context(STYLE):
                return function(results)

        name = function.__name__
        PLOTS[name] = Plot(name, place, title, caption, paper, draw)
        return draw

    return enter


def png(drawing: Drawing) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        drawing.figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    return buffer.getvalue()


def new_axes(height: float = HEIGHT, **options) -> tuple[Figure, Axes]:
    """A figure of the report's width with one pair of axes."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot(**options)


def legend_below(figure: Figure, columns: int = 2) -> None:
    """Under the axes, where it covers nothing; the paper's rows last."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    entries = sorted(zip(labels, handles, strict=True), key=lambda one: one[0].startswith("paper"))
    figure.legend(
        [handle for _, handle in entries],
        [label for label, _ in entries],
        loc="outside lower center",
        ncols=columns,
        fontsize=9,
        handlelength=1.4,
        columnspacing=1,
    )


def accuracy_axis(axes: Axes) -> None:
    """In percent, all of it: half a scale makes small differences look large."""
    axes.set_ylim(-3, 103)
    axes.set_ylabel("accuracy (%)")


def accuracy_line(
    axes: Axes, xs: Sequence[float], accuracies: Sequence[Accuracy], label: str, **style
) -> None:
    """Points with their 95 % intervals, joined in the order of x."""
    points = sorted(zip(xs, accuracies, strict=True), key=lambda point: point[0])
    xs = [x for x, _ in points]
    ys = [100 * accuracy.top1 for _, accuracy in points]
    below, above = zip(*(errors(accuracy) for _, accuracy in points), strict=True)
    axes.errorbar(xs, ys, (below, above), label=label, capsize=2, elinewidth=0.8, **style)


def errors(accuracy: Accuracy) -> tuple[float, float]:
    """How far the interval reaches below and above, in percent."""
    low, high = accuracy.interval
    return 100 * (accuracy.top1 - low), 100 * (high - accuracy.top1)


def paper_points(axes: Axes, method: str, xs: Sequence[float], ys: Sequence[float]) -> None:
    """The paper's numbers of a method: hollow, dashed, named as the paper's."""
    axes.plot(
        xs,
        ys,
        label=f"paper: {METHOD_NAMES[method]}",
        linestyle="--",
        linewidth=0.9,
        markerfacecolor="white",
        **METHODS[method],
    )


def attacks_of(results: Results, kind: str, names: Iterable[str]) -> list[Record]:
    """Those of the named records that are there and are attacks of a kind."""
    found = (results.attacks.get(name) for name in names)
    return [one for one in found if one is not None and one.parameters["attack"] == kind]


def strongest_of_each_kind(results: Results) -> list[Record]:
    """Of each attack the record that found most errors, most first; in the verdict's norm only
    those with at most its eps, since a larger ball says nothing of it."""
    best: dict[str, tuple[int, Record]] = {}
    for record in results.attacks.values():
        kind, norm, eps = (record.parameters[key] for key in ("attack", "norm", "eps"))
        if norm == results.norm and eps > results.eps * (1 + 1e-6):
            continue
        errors_found = int(record.columns["misclassified"].sum()) if len(record.rows) > 0 else 0
        if kind not in best or errors_found > best[kind][0]:
            best[kind] = (errors_found, record)
    return [record for _, record in sorted(best.values(), key=lambda one: -one[0])]


def option(record: Record, name: str, default: int = 1) -> int:
    """An option of an attack as it was run, which a scale may have cut."""
    return record.parameters["options"].get(name, default)


def of_cifar10_alone(results: Results) -> str:
    """A note where a plot's numbers of the paper are not drawn, being of other data."""
    return "" if dataset_like(results) == CIFAR10 else "The paper has this of CIFAR-10 alone."


def eps_label(norm: str, what: str = "eps") -> str:
    """Of an axis of lengths."""
    return f"{what} ({'l-inf' if norm == 'linf' else norm}, images in [0,1])"


def series(xs: Iterable[float], accuracies: Iterable[Accuracy]) -> str:
    """For an alternative text: ``31.0 % at 20, 30.5 % at 100``."""
    points = sorted(zip(xs, accuracies, strict=True), key=lambda point: point[0])
    return ", ".join(f"{100 * accuracy.top1:.1f} % at {x:.3g}" for x, accuracy in points)
