"""Figure 7: (a) accuracy under more steps of PGD, (b) initial weights of SPROUT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reproduction.exhibits.base import (
    EXHIBITS,
    Cell,
    Exhibit,
    Measured,
    paper_measurement,
)
from reproduction.exhibits.curves import errors, number_in, plot_cells
from reproduction.exhibits.trained import (
    BASELINES_CHOSEN,
    TRAINING_CHOSEN,
    compared,
    sprout,
)
from reproduction.scale import Scale
from sprout_fast.evaluation.protocols import PAPER_STEPS
from sprout_fast.evaluation.report.plots.base import accuracy_axis
from sprout_fast.paper import METHOD_NAMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reproduction.findings import Findings

NETWORK = "vgg16"
STARTS = {
    "natural": "SPROUT from natural",
    "random": "SPROUT from random",
    "pgd_at": "SPROUT from adversarial",
    "trades": "SPROUT from TRADES",
}


@EXHIBITS.register("figure 7")
def figure_7(scale: Scale) -> Exhibit:
    trained = compared(scale, NETWORK)
    attacks = {steps: paper_measurement(scale, f"PGD-{steps} at 0.03") for steps in PAPER_STEPS}
    cells = [
        Cell(METHOD_NAMES[method], f"PGD {steps}", Measured(training, what))
        for method, training in trained.items()
        for steps, what in attacks.items()
    ]
    for start, row in STARTS.items():
        training = sprout(scale, NETWORK, trained.get(start))
        cells += [
            Cell(row, "clean", Measured(training, paper_measurement(scale, "clean"))),
            Cell(row, "PGD 20", Measured(training, attacks[20])),
        ]
    return Exhibit(
        "figure",
        7,
        f"accuracy in percent, {scale.label(NETWORK)}, CIFAR-10, eps 0.03: under PGD with 10 to 500"
        " steps (a), and of SPROUT with four kinds of initial weights (b)",
        scale,
        cells,
        [NETWORK],
        chosen=[
            *TRAINING_CHOSEN,
            *BASELINES_CHOSEN,
            "with random initial weights, SPROUT uses the full learning rate; (b) is under PGD-20",
        ],
        draw=draw_both,
    )


def draw_both(findings: Findings) -> Figure:
    """Draw (a) curves and (b) bars."""
    from matplotlib.figure import Figure

    cells = findings.exhibit.cells
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for row in findings.exhibit.rows():
        if row not in STARTS.values():
            of_row = [cell for cell in cells if cell.row == row]
            plot_cells(left, findings, of_row, [number_in(cell.column) for cell in of_row], row)
    scale = findings.exhibit.scale
    fewer = "" if scale.is_full else f" in the paper; here times {scale.attack_scale:.2g}"
    left.set(xlabel=f"steps of PGD{fewer}", xscale="log")
    left.set_xticks(PAPER_STEPS, [str(steps) for steps in PAPER_STEPS])
    left.minorticks_off()
    accuracy_axis(left)
    left.legend()
    for offset, column in enumerate(("clean", "PGD 20")):
        of_column = [
            cell for cell in cells if cell.row in STARTS.values() and cell.column == column
        ]
        values = [findings.value(cell) for cell in of_column]
        places = [place + 0.4 * offset for place in range(len(values))]
        numbers = [value.number for value in values]
        right.bar(places, numbers, 0.4, yerr=errors(values), capsize=3, label=column)
    right.set_xticks(
        [place + 0.2 for place in range(len(STARTS))],
        [name.removeprefix("SPROUT from ") for name in STARTS.values()],
    )
    right.set_xlabel("initial weights of SPROUT")
    accuracy_axis(right)
    right.legend()
    return figure
