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
from reproduction.exhibits.curves import number_in, plot_cells
from reproduction.exhibits.trained import (
    BASELINES_CHOSEN,
    TRAINING_CHOSEN,
    compared,
    sprout,
    steps_of,
)
from reproduction.scale import Scale
from sprout_fast.evaluation.protocols import PAPER_EPS, PAPER_EPS_CURVE, PAPER_STEPS
from sprout_fast.evaluation.report.plots.base import METHODS, accuracy_axis
from sprout_fast.paper import METHOD_NAMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reproduction.findings import Findings

NETWORKS = {"a": "wrn34_10", "b": "vgg16"}
STARTS = {
    "natural": "SPROUT from natural",
    None: "SPROUT from random",
    "pgd_at": "SPROUT from adversarial training",
    "trades": "SPROUT from TRADES",
}
BASELINES = {"pgd_at": "natural + adversarial training", "trades": "natural + TRADES"}


@EXHIBITS.register("figure 7")
def figure_7(scale: Scale) -> Exhibit:
    attacks = {steps: paper_measurement(scale, f"PGD-{steps} at 0.03") for steps in PAPER_STEPS}
    cells = [
        Cell(METHOD_NAMES[method], f"PGD {steps}", Measured(training, what))
        for method, training in compared(scale, NETWORKS["a"]).items()
        for steps, what in attacks.items()
    ]
    network = NETWORKS["b"]
    trained = compared(scale, network)
    compared_with = {
        row: sprout(scale, network, None if start is None else trained[start])
        for start, row in STARTS.items()
    } | {
        row: scale.train(network, method, start=trained["natural"])
        for method, row in BASELINES.items()
    }
    balls = {0.0: paper_measurement(scale, "clean")} | {
        eps: paper_measurement(scale, f"PGD-20 at {eps:g}")
        for eps in sorted((*PAPER_EPS_CURVE, PAPER_EPS))
    }
    cells += [
        Cell(row, f"eps {eps:g}", Measured(training, what))
        for row, training in compared_with.items()
        for eps, what in balls.items()
    ]
    return Exhibit(
        "figure",
        7,
        "accuracy in percent, CIFAR-10: (a) under PGD with more steps,"
        f" {scale.label(NETWORKS['a'])}, eps {PAPER_EPS:g}; (b) under PGD with"
        f" {steps_of(attacks[20])} steps against eps, from several initial weights,"
        f" {scale.label(network)}",
        scale,
        cells,
        list(NETWORKS.values()),
        chosen=[
            *TRAINING_CHOSEN,
            *BASELINES_CHOSEN,
            "(b): natural + adversarial training and natural + TRADES are these methods from the"
            " natural model's weights, with SPROUT's smaller learning rate; network, attack and"
            " the values of eps are assumptions",
        ],
        draw=draw_both,
    )


def draw_both(findings: Findings) -> Figure:
    """Draw one panel per part."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    for part, axes in zip("ab", figure.subplots(1, 2), strict=True):
        rows, columns = findings.exhibit.parts()["ab".index(part)]
        for row in rows:
            cells = [cell for cell in findings.exhibit.cells if cell.row == row]
            assert [cell.column for cell in cells] == columns
            places = [_place(cell) for cell in cells]
            plot_cells(axes, findings, cells, places, row, style=_STYLES.get(row))
        axes.set_title(f"({part}) {findings.exhibit.scale.label(NETWORKS[part])}")
        accuracy_axis(axes)
        axes.legend(fontsize="small")
        if part == "b":
            axes.set_xlabel("eps")
            continue
        steps = sorted({_place(cell) for cell in findings.exhibit.cells if cell.row == rows[0]})
        axes.set(xlabel="steps of PGD", xscale="log")
        axes.set_xticks(steps, [f"{step:g}" for step in steps])
        axes.minorticks_off()
    return figure


# (b) compares SPROUT with itself, so its rows have the colors of their initial weights.
_STYLES = {
    row: METHODS[start] if start else {"color": "#0072B2", "marker": "o"}
    for start, row in STARTS.items()
} | {row: {**METHODS[method], "linestyle": "--"} for method, row in BASELINES.items()}


def _place(cell: Cell) -> float:
    """Return the number of steps that the attack makes at this scale, or eps."""
    assert isinstance(cell.source, Measured)
    if cell.column.startswith("PGD"):
        return steps_of(cell.source.measurement)
    return number_in(cell.column)
