"""The tables and figures of docs/results.md, from the numbers next to it (docs/results.json).

PYTHONPATH=tools python -m study.page docs/results.md    # make results: after an edit of this file
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from training_benchmark.tables import markdown_table

from sprout_fast.errors import UserError
from sprout_fast.evaluation.accuracy import Accuracy
from sprout_fast.files import atomic_write
from sprout_fast.paper import METHOD_NAMES, VGG, WRN, published

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
PAPER_TABLES = ((2, VGG), (7, VGG), (9, WRN))
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
        mass = f"{masses[0]:.2f} to {masses[-1]:.2f}" if masses else ""
        # Absent where an evaluation did not come to its end.
        margin = confidence = failed = ""
        if "audit" in row:
            margin, confidence = (
                f"{row['logits'][name]:.2f}" for name in ("mean_margin", "mean_confidence")
            )
            failed = f"{', '.join(row['audit']['failed']) or 'none'} (of {row['audit']['ran']})"
        rows.append([row["title"], str(row["epochs"]), mass, margin, confidence, failed])
    headings = ["network", "epochs", "mass", "margin", "confidence", "failed checks"]
    return markdown_table(headings, rows, left=1)


def paper_table(table: int, network: str) -> str:
    """Return one of the paper's tables, in percent."""
    found = published(table, network)
    rows = [
        [METHOD_NAMES.get(name, name), *(f"{value:g}" for value in values)]
        for name, values in found.rows.items()
    ]
    return markdown_table([f"the paper's Table {table}, {network}", *found.columns], rows, left=1)


def figures(study: Mapping[str, Any]) -> dict[str, Figure]:
    """Return a study's three figures by what they show, without those that no row has."""
    kinds = {"mass": ("snapshots", _over_training), "landscape": ("landscape", _landscapes)}
    drawn = {"accuracy": _bars(study)}
    for shown, (needed, draw) in kinds.items():
        if any(row.get(needed) for row in study["rows"].values()):
            drawn[shown] = draw(study)
    return drawn


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
    figure.legend(loc="outside upper center", ncols=3, fontsize="small", frameon=False)
    return figure


def _over_training(study: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for place, row in enumerate(study["rows"].values()):
        if not (snapshots := row.get("snapshots")):
            continue
        epochs = [one["epoch"] for one in snapshots]
        robust = [100 * one["PGD-20"]["correct"] / one["PGD-20"]["total"] for one in snapshots]
        left.plot(epochs, robust, f"C{place}.-", label=row["title"])
        if masses := {one["epoch"]: one["mass"] for one in row["labels"]}:
            right.plot([masses[epoch] for epoch in epochs], robust, f"C{place}.-")
    left.set(xlabel="epoch", ylabel="PGD-20 accuracy at 0.03 (%)", ylim=(0, None))
    right.set(xlabel="expected true-class mass of SPROUT's labels")
    figure.legend(loc="outside upper center", ncols=3, fontsize="small", frameon=False)
    return figure


def _landscapes(study: Mapping[str, Any]) -> Figure:
    rows = [row for row in study["rows"].values() if "landscape" in row]
    columns = -(-len(rows) // 2)
    figure = Figure(figsize=(2.4 * columns, 5), layout="constrained")
    # Logarithmic: flat logits have a tenth of the natural network's loss.
    values = [value for row in rows for line in row["landscape"] for value in line]
    scale = LogNorm(max(min(values), 1e-3), max(values), clip=True)
    for axes, row in zip(figure.subplots(2, columns).flat, rows, strict=False):
        image = axes.imshow(row["landscape"], origin="lower", extent=(0, 0.06, 0, 0.06), norm=scale)
        axes.set_title(textwrap.fill(row["title"], 24), fontsize="small")
    for axes in figure.axes[len(rows) :]:
        axes.axis("off")
    figure.supxlabel("along a random sign vector")
    figure.supylabel("along the gradient's sign")
    bar = figure.colorbar(image, ax=figure.axes, label="cross entropy (nats)", shrink=0.7)
    bar.ax.yaxis.set_major_formatter("{x:g}")
    bar.ax.yaxis.set_minor_formatter("{x:g}")
    return figure


def name_of(arch: str, epochs: int) -> str:
    """Return the name of a study in the page's markers and its figures' files.

    >>> name_of("cifar_resnet20", 30)
    'resnet20_30'
    """
    return f"{arch.removeprefix('cifar_')}_{epochs}"


def check_page(page: Path, name: str) -> None:
    """Check that a page has the markers of the study called ``name``, and of those that it shows.

    Raises:
        UserError: it lacks one, or cannot be read.
    """
    try:
        text = page.read_text()
    except OSError as error:
        raise UserError(f"{page}: cannot be read ({error.strerror})", option="page") from error
    parts = [part for one in {name: None} | _numbers(page) for part in _parts_of(one)]
    for part in (*parts, *(f"table {table}" for table, _ in PAPER_TABLES)):
        for marker in (_BEGIN.format(part), _END.format(part)):
            if marker not in text:
                raise UserError(f"{page}: has no line {marker}", option="page")


def _parts_of(name: str) -> tuple[str, ...]:
    return tuple(f"{name} {what}" for what in ("accuracy", "labels"))


def _numbers(page: Path) -> dict[str, Any]:
    path = page.with_suffix(".json")
    return json.loads(path.read_text()) if path.exists() else {}


def update(page: Path, study: Mapping[str, Any]) -> None:
    """Put a study's numbers next to the page, and make its generated parts and figures from them.

    Args:
        page: Markdown with a begin and an end marker for each part. The numbers are kept in the
            file of the same name that ends in ``.json``, by :func:`name_of`.
        study: the content of ``study.json``. Rows that it lacks and the page has remain.

    Raises:
        UserError: the page lacks a marker, or has the numbers of another seed or size.
    """
    study = json.loads(json.dumps(study))  # lists, not tuples
    name, studies = name_of(study["size"]["arch"], study["size"]["epochs"]), _numbers(page)
    rows = {}
    for key, row in study["rows"].items():
        rows[key] = dict(row)
        if "landscape" in row:
            lines = row["landscape"]
            rows[key]["landscape"] = [[float(f"{z:.4g}") for z in line] for line in lines]
    if name in studies:
        for setting in ("seed", "size"):
            if studies[name][setting] != study[setting]:
                raise UserError(
                    f"{page.with_suffix('.json')}: has {setting} {studies[name][setting]} of"
                    f" {name}, got {study[setting]}; remove it there to replace it",
                    option="page",
                )
        rows = studies[name]["rows"] | rows
    order = study["size"]["rows"]
    studies[name] = dict(study) | {"rows": {key: rows[key] for key in order if key in rows}}
    check_page(page, name)
    drawn = _drawn(studies)
    text = json.dumps(studies, indent=1, allow_nan=False)
    # Lists of numbers on one line each.
    text = re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found[0].split()), text)
    with atomic_write(page.with_suffix(".json")) as temporary:
        temporary.write_text(text + "\n")
    _fill(page, studies, drawn)


def _drawn(studies: Mapping[str, Mapping[str, Any]]) -> dict[str, Figure]:
    return {
        f"{name}_{shown}": figure
        for name, study in studies.items()
        for shown, figure in figures(study).items()
    }


def _fill(page: Path, studies: Mapping[str, Any], drawn: Mapping[str, Figure]) -> None:
    text = page.read_text()
    parts = {f"table {table}": paper_table(table, network) for table, network in PAPER_TABLES}
    for name, study in studies.items():
        tables = accuracy_table(study), label_table(study)
        parts |= dict(zip(_parts_of(name), tables, strict=True))
    for name, table in parts.items():
        begin, end = _BEGIN.format(name), _END.format(name)
        text = re.sub(
            f"{re.escape(begin)}.*?{re.escape(end)}",
            lambda _, block=f"{begin}\n{table}\n{end}": block,
            text,
            flags=re.DOTALL,
        )
    page.write_text(text)
    for name, figure in drawn.items():
        figure.savefig(page.parent / f"{page.stem}_{name}.png", dpi=110)


def main() -> None:
    """Make the page named on the command line from the numbers next to it."""
    page = Path(sys.argv[1])
    studies = _numbers(page)
    check_page(page, next(iter(studies)))
    _fill(page, studies, _drawn(studies))


if __name__ == "__main__":
    main()
