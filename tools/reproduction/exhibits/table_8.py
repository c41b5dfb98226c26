"""Table 8 and Figure 1: five criteria at once, in numbers and as a radar chart."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reproduction.exhibits.base import EXHIBITS, Exhibit, paper_measurement
from reproduction.exhibits.table_6 import TIMES_FOOTNOTE
from reproduction.exhibits.trained import (
    BASELINES_CHOSEN,
    TRAINING_CHOSEN,
    compared,
    grid,
    notes_of,
    steps_of,
)
from reproduction.scale import Scale
from sprout_fast.evaluation.measurements import AttackMeasurement
from sprout_fast.evaluation.report.plots.base import METHODS
from sprout_fast.paper import UNSPECIFIED, VGG, published

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reproduction.findings import Findings

NETWORK = "vgg16"
SECONDS = "seconds"


@EXHIBITS.register("table 8")
def table_8(scale: Scale) -> Exhibit:
    table = published(8, VGG)
    pgd, cw = (paper_measurement(scale, name) for name in ("PGD-100 at 0.03", "C&W-l2 at 0.05"))
    assert isinstance(cw, AttackMeasurement)
    return Exhibit(
        "table",
        8,
        f"accuracy in percent and training time in seconds, {scale.label(NETWORK)}, CIFAR-10",
        scale,
        grid(scale, table, compared(scale, NETWORK), arch=scale.arch(NETWORK)),
        [NETWORK],
        chosen=[
            *TRAINING_CHOSEN,
            *BASELINES_CHOSEN,
            f"l-inf is PGD with {steps_of(pgd)} steps, for the paper's PGD-100, since the column"
            " has that attack's numbers from Table 2; C&W is l2 at 0.05 with"
            f" {cw.options['binary_searches']} binary searches of {steps_of(cw)} steps, for the 10"
            " of 1000 in the paper's text",
        ],
        incomparable="the paper's column of clean accuracy and that of contrast are its Wide"
        " ResNet's, and its seconds those of its authors' GPU",
        footnotes=[
            TIMES_FOOTNOTE,
            *notes_of(table, published(None, UNSPECIFIED)),
            "TRADES's l-inf is 38.29 in this table and 38.21 under PGD-100 in Table 2",
        ],
    )


@EXHIBITS.register("figure 1")
def figure_1(scale: Scale) -> Exhibit:
    exhibit = table_8(scale)
    exhibit.kind, exhibit.number, exhibit.draw = "figure", 1, draw_radar
    exhibit.remarks = averages
    exhibit.footnotes.append(
        "the figure's caption divides each dimension by its best, as is done here, while its panel"
        " draws raw percentages; the caption's averages are 0.6718, 0.6900, 0.7107 and 0.8798, and"
        " Table 8 gives 0.6941 for adversarial training instead of 0.6900"
    )
    return exhibit


def averages(findings: Findings) -> list[str]:
    """Return the means over the five dimensions, each divided by its best."""
    lines = []
    for title, numbers in _numbers(findings).items():
        means = {row: statistics.mean(values) for row, values in relative(numbers).items()}
        listed = ", ".join(f"{row} {mean:.4f}" for row, mean in means.items())
        lines.append(f"mean over the dimensions, each divided by its best, {title}: {listed}")
    return lines


Numbers = Mapping[str, Mapping[str, float]]  # by row, then by column


def _numbers(findings: Findings) -> dict[str, Numbers]:
    """Return the measured and the published numbers."""
    found: dict[str, dict[str, dict[str, float]]] = {"measured": {}, "the paper's Table 8": {}}
    for cell in findings.exhibit.cells:
        assert cell.published is not None
        numbers = (findings.value(cell).number, cell.published)
        for by_row, number in zip(found.values(), numbers, strict=True):
            by_row.setdefault(cell.row, {})[cell.column] = number
    return {**found}


def relative(numbers: Numbers) -> dict[str, list[float]]:
    """Return each row's numbers divided by the best of their column; of seconds, the least is best.

    >>> relative({"one": {"clean": 50.0, "seconds": 1.0}, "two": {"clean": 100.0, "seconds": 4.0}})
    {'one': [0.5, 1.0], 'two': [1.0, 0.25]}
    """
    goodness = {
        row: {name: 1 / value if name == SECONDS else value for name, value in values.items()}
        for row, values in numbers.items()
    }
    best = {
        name: max(values[name] for values in goodness.values()) or 1.0  # all are 0
        for values in goodness.values()
        for name in values
    }
    return {
        row: [value / best[name] for name, value in values.items()]
        for row, values in goodness.items()
    }


def draw_radar(findings: Findings) -> Figure:
    """Draw measured and published numbers, each divided by the best of its dimension."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.4), layout="constrained")
    styles: dict[str, Any] = {**METHODS}
    panels = [figure.add_subplot(1, 2, place, projection="polar") for place in (1, 2)]
    for axes, (title, numbers) in zip(panels, _numbers(findings).items(), strict=True):
        columns = next(iter(numbers.values()))
        angles = [2 * math.pi * place / len(columns) for place in range(len(columns))]
        for method, (row, values) in zip(
            published(8, VGG).rows, relative(numbers).items(), strict=True
        ):
            axes.plot([*angles, angles[0]], [*values, values[0]], label=row, **styles[method])
        axes.set_xticks(angles, ["speed" if name == SECONDS else name for name in columns])
        axes.set_ylim(0, 1.05)
        axes.set_yticks([0.5, 1], ["0.5", "1"], fontsize="x-small")
        axes.set_title(f"{title}, relative to the best of each dimension")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure
