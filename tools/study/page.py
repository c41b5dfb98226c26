"""The table and the figures of docs/results.md, from ``study.json``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from training_benchmark.tables import markdown_table

from sprout_fast.evaluation.accuracy import Accuracy
from sprout_fast.paper import VGG, published

COLUMNS = (
    "clean",
    "PGD-20",
    "PGD-100",
    "10 x PGD-100",
    "margin PGD-100",
    "transfer",
    "strong, 0.03",
    "strong, 8/255",
)
_BEGIN, _END = "<!-- make study: {} -->", "<!-- end of make study: {} -->"


def percent(counts: Mapping[str, int] | None) -> str:
    """Return an accuracy in percent with its 95 % Wilson interval, or an empty string.

    >>> percent({"correct": 90, "total": 100})
    '90.0 (82.6 to 94.5)'
    """
    if counts is None:
        return ""
    accuracy = Accuracy(counts["correct"], counts["total"])
    low, high = accuracy.interval
    return f"{100 * accuracy.top1:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def accuracy_table(study: Mapping[str, Any]) -> str:
    """Return the table of accuracies in percent, one row per network."""
    rows = [
        [row["title"], *(percent(row["accuracy"].get(column)) for column in COLUMNS)]
        for row in study["rows"].values()
    ]
    return markdown_table(["network", *COLUMNS], rows, left=1)


def label_table(study: Mapping[str, Any]) -> str:
    """Return the table of labels, logits and the audit, one row per network."""
    rows = []
    for row in study["rows"].values():
        masses = [point["mass"] for point in row["labels"]]
        audit = row["audit"]
        failed = ", ".join(audit["failed"]) or "none"
        rows.append(
            [
                row["title"],
                str(row["epochs"]),
                f"{row['hours']:.1f}",
                f"{masses[0]:.2f} to {masses[-1]:.2f}" if masses else "",
                f"{row['logits']['mean_margin']:.2f}",
                f"{row['logits']['mean_confidence']:.2f}",
                f"{failed} ({audit['ran']} ran)",
            ]
        )
    headings = ["network", "epochs", "hours", "mass", "margin", "confidence", "failed checks"]
    return markdown_table(headings, rows, left=1)


def paper_table() -> str:
    """Return the paper's Table 2 for VGG-16."""
    table = published(2, VGG)
    rows = [[name, *(f"{value:g}" for value in values)] for name, values in table.rows.items()]
    return markdown_table(["the paper, VGG-16", *table.columns], rows, left=1)


def figures(study: Mapping[str, Any]) -> dict[str, Figure]:
    """Return the page's three figures by the names of their files."""
    return {
        "results_accuracy": _bars(study),
        "results_mass": _over_training(study),
        "results_landscape": _landscapes(study),
    }


def _bars(study: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    rows = list(study["rows"].values())
    width = 0.8 / len(rows)
    for place, row in enumerate(rows):
        for index, column in enumerate(COLUMNS):
            counts = row["accuracy"].get(column)
            if counts is None:
                continue
            accuracy = Accuracy(counts["correct"], counts["total"])
            low, high = accuracy.interval
            axes.bar(
                index + (place - (len(rows) - 1) / 2) * width,
                100 * accuracy.top1,
                width,
                color=f"C{place}",
                yerr=([100 * (accuracy.top1 - low)], [100 * (high - accuracy.top1)]),
                error_kw={"lw": 0.8},
                label=row["title"] if index == 0 else None,
            )
    axes.set_xticks(range(len(COLUMNS)), COLUMNS, rotation=20, ha="right")
    axes.set(ylabel="accuracy (%)", ylim=(0, 100))
    figure.legend(loc="outside upper center", ncols=4, fontsize="small", frameon=False)
    return figure


def _over_training(study: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for place, row in enumerate(study["rows"].values()):
        epochs = [one["epoch"] for one in row["snapshots"]]
        robust = [
            100 * one["PGD-20"]["correct"] / one["PGD-20"]["total"] for one in row["snapshots"]
        ]
        left.plot(epochs, robust, f"C{place}.-", label=row["title"])
        if masses := {one["epoch"]: one["mass"] for one in row["labels"]}:
            right.plot([masses[epoch] for epoch in epochs], robust, f"C{place}.-")
    left.set(xlabel="epoch", ylabel="PGD-20 accuracy at 0.03 (%)", ylim=(0, None))
    right.set(xlabel="expected true-class mass of SPROUT's labels")
    figure.legend(loc="outside upper center", ncols=4, fontsize="small", frameon=False)
    return figure


def _landscapes(study: Mapping[str, Any]) -> Figure:
    rows = list(study["rows"].values())
    columns = -(-len(rows) // 2)
    figure = Figure(figsize=(2.4 * columns, 5), layout="constrained")
    top = max(max(map(max, row["landscape"])) for row in rows)
    for axes, row in zip(figure.subplots(2, columns).flat, rows, strict=False):
        image = axes.imshow(
            row["landscape"], origin="lower", extent=(0, 0.06, 0, 0.06), vmin=0, vmax=top
        )
        axes.set_title(row["title"], fontsize="small", wrap=True)
    for axes in figure.axes[len(rows) :]:
        axes.axis("off")
    figure.supxlabel("along a random sign vector")
    figure.supylabel("along the gradient's sign")
    figure.colorbar(image, ax=figure.axes, label="cross entropy (nats)", shrink=0.7)
    return figure


def update(page: Path, study: Mapping[str, Any]) -> None:
    """Replace the page's generated parts, and write its figures next to it.

    Raises:
        ValueError: the page lacks a marker.
    """
    text = page.read_text()
    parts = {
        "accuracy": accuracy_table(study),
        "labels": label_table(study),
        "paper": paper_table(),
    }
    for name, table in parts.items():
        begin, end = _BEGIN.format(name), _END.format(name)
        if begin not in text or end not in text:
            raise ValueError(f"{page}: has no {begin} and {end}")
        text = re.sub(
            f"{re.escape(begin)}.*?{re.escape(end)}",
            lambda _, block=f"{begin}\n{table}\n{end}": block,
            text,
            flags=re.DOTALL,
        )
    page.write_text(text)
    for name, figure in figures(study).items():
        figure.savefig(page.parent / f"{name}.png", dpi=110)
