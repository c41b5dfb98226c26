"""Figure 5: sensitivity of SPROUT to Mixup's a (``mixup_alpha``) and to alpha."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reproduction.datasets import CIFAR
from reproduction.exhibits.base import (
    EXHIBITS,
    Cell,
    Exhibit,
    Measured,
    paper_measurement,
)
from reproduction.exhibits.curves import number_in, plot_cells
from reproduction.exhibits.trained import TRAINING_CHOSEN, sprout, steps_of
from reproduction.scale import Scale
from sprout_fast.evaluation.report.plots.base import accuracy_axis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reproduction.findings import Findings

NETWORK = "vgg16"
VALUES = {"mixup_alpha": (0.05, 0.1, 0.2, 0.5, 1.0), "alpha": (0.001, 0.01, 0.05, 0.1, 0.2)}


@EXHIBITS.register("figure 5")
def figure_5(scale: Scale) -> Exhibit:
    natural = scale.train(NETWORK, "natural")
    what = paper_measurement(scale, "PGD-20 at 0.03")
    return Exhibit(
        "figure",
        5,
        f"accuracy in percent under PGD with {steps_of(what)} steps against mixup_alpha and alpha,"
        f" SPROUT on {scale.label(NETWORK)}, CIFAR-10, eps 0.03",
        scale,
        [
            Cell(
                f"{option} varied",
                f"{option} {value:g}",
                Measured(sprout(scale, NETWORK, natural, CIFAR, **{option: value}), what),
            )
            for option, values in VALUES.items()
            for value in values
        ],
        [NETWORK],
        chosen=[
            *TRAINING_CHOSEN,
            "the values of mixup_alpha (the paper's a) and alpha are assumptions; while one varies,"
            " the other has the recipe's value",
        ],
        draw=draw_sensitivity,
    )


def draw_sensitivity(findings: Findings) -> Figure:
    """Draw one panel per option."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, option in zip(figure.subplots(1, 2, sharey=True), VALUES, strict=True):
        cells = [cell for cell in findings.exhibit.cells if cell.row == f"{option} varied"]
        plot_cells(axes, findings, cells, [number_in(cell.column) for cell in cells], option)
        axes.set(xlabel=option, xscale="log")
        accuracy_axis(axes)
    return figure
