"""Figures of a run."""

from __future__ import annotations

import csv
from pathlib import Path

from sprout_fast.files import atomic_write
from sprout_fast.methods.sprout import LOW_MASS


def plot_beta(metrics: Path, path: Path) -> None:
    """Plot beta's range and the expected true-class mass per epoch.

    Args:
        metrics: a ``metrics.csv`` with the columns of SPROUT's statistics.
        path: the PNG file to write; none is written if ``metrics`` has no epochs.
    """
    from matplotlib.figure import Figure  # a second to import, and needs no display

    with open(metrics, newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:  # resumed into another folder, and no epoch has ended there
        return
    epochs = [int(row["epoch"]) for row in rows]

    def column(name: str) -> list[float]:
        return [float(row[name]) for row in rows]

    figure = Figure(figsize=(7, 6), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    above.fill_between(epochs, column("beta_min"), column("beta_max"), alpha=0.25, lw=0)
    above.plot(epochs, column("beta_mean"), marker="o" if len(rows) < 30 else None)
    above.set(ylabel="β: mean and range over classes", ylim=(0, None))
    below.plot(epochs, column("true_class_mass"), marker="o" if len(rows) < 30 else None)
    below.axhline(LOW_MASS, color="tab:red", ls="--", lw=1)
    below.annotate(
        "below this, labels hardly name the true class",
        (epochs[0], LOW_MASS),
        (0, 3),
        textcoords="offset points",
        color="tab:red",
        fontsize="small",
    )
    below.set(xlabel="epoch", ylabel="expected true-class mass", ylim=(0, 1.02))
    below.xaxis.get_major_locator().set_params(integer=True)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
