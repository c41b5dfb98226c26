"""Table 8 and Fig. 1: five dimensions at once, in numbers and as a radar."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from reproduction.exhibits.base import Exhibit, register
from reproduction.exhibits.table_6 import TIMES_CHOSEN, TIMES_FOOTNOTE
from reproduction.exhibits.trained import (
    BASELINES_CHOSEN,
    TRAINING_CHOSEN,
    compared,
    grid,
    notes_of,
)
from reproduction.scale import Scale
from sprout_fast.evaluation.report.plots.base import METHODS
from sprout_fast.paper import UNSPECIFIED, VGG, published

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reproduction.findings import Findings

NETWORK = "vgg16"
SECONDS = "seconds"


@register("table", 8)
def table_8(scale: Scale) -> Exhibit:
    table = published(8, VGG)
    return Exhibit(
        "table",
        8,
        f"five dimensions, {scale.label(NETWORK)}, CIFAR-10: accuracies in percent, and seconds",
        scale,
        grid(scale, table, compared(scale, NETWORK), arch=scale.arch(NETWORK)),
        [NETWORK],
        chosen=[
            *TRAINING_CHOSEN,
            *BASELINES_CHOSEN,
            *TIMES_CHOSEN,
            "l-inf is PGD-100, whose numbers in Table 2 the column has; C&W is l2 at 0.05, 10"
            " searches of 1000 steps, as in the text",
        ],
        footnotes=[
            TIMES_FOOTNOTE,
            *notes_of(table, published(None, UNSPECIFIED)),
            "TRADES' l-inf is 38.29 here and 38.21 under PGD-100 in Table 2",
        ],
    )


@register("figure", 1)
def figure_1(scale: Scale) -> Exhibit:
    exhibit = table_8(scale)
    exhibit.kind, exhibit.number, exhibit.draw = "figure", 1, draw_radar
    return exhibit


def draw_radar(findings: Findings) -> Figure:
    """Ours beside the paper's: accuracies in percent; speed is natural's seconds over one's own."""
    from matplotlib.figure import Figure

    exhibit = findings.exhibit
    rows, columns = exhibit.rows(), exhibit.columns()
    angles = [2 * math.pi * place / len(columns) for place in range(len(columns))]
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    both = {
        "ours": {(cell.row, cell.column): findings.value(cell).number for cell in exhibit.cells},
        "the paper's": {(cell.row, cell.column): cell.published for cell in exhibit.cells},
    }
    for place, (title, numbers) in enumerate(both.items(), start=1):
        axes = figure.add_subplot(1, 2, place, projection="polar")
        for method, row in zip(published(8, VGG).rows, rows, strict=True):
            values = [numbers[row, column] for column in columns]
            at = columns.index(SECONDS)
            values[at] = 100 * numbers[rows[0], SECONDS] / values[at]
            axes.plot([*angles, angles[0]], [*values, values[0]], label=row, **METHODS[method])
        axes.set_xticks(angles, ["speed" if name == SECONDS else name for name in columns])
        axes.set_ylim(0, 105)
        axes.set_yticks([50, 100], ["50", "100 %"], fontsize="x-small")
        axes.set_title(title)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure
