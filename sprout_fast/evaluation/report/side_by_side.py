"""Compare evaluations and training runs by their folders, in one self-contained HTML file."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.ticker import MaxNLocator

from sprout_fast.errors import UserError
from sprout_fast.evaluation.report.html import data_url, describe_attack, describe_ball
from sprout_fast.evaluation.report.plots.base import (
    ALSO_OURS,
    METHODS,
    OURS,
    STYLE,
    Drawing,
    legend_below,
    new_axes,
    png,
)
from sprout_fast.files import atomic_write

# Columns of metrics.csv that are the same for all methods and have no curve of their own.
_WITHOUT_CURVE = {"epoch", "step", "lr", "images_per_s", "data_wait", "seconds"}
_FRACTIONS = ("acc", "top1", "top5", "mass")  # how names of columns in [0,1] end
_SERIES = [OURS, *METHODS.values(), ALSO_OURS]


@dataclass(frozen=True)
class Side:
    """What a folder holds: an evaluation, the epochs of a training run, or both."""

    name: str
    evaluation: dict[str, Any] | None  # results.json
    epochs: list[dict[str, str]]  # rows of metrics.csv

    @property
    def attacks(self) -> dict[str, dict[str, Any]]:
        """The attacks of the evaluation that were run, as in results.json, by name."""
        measurements = [] if self.evaluation is None else self.evaluation["measurements"]
        return {
            one["name"]: one
            for one in measurements
            if one["parameters"]["kind"] == "AttackMeasurement" and "accuracy" in one
        }

    @property
    def corruptions(self) -> dict[str, dict[str, float]]:
        """Accuracy by corruption and severity, as in results.json."""
        return ((self.evaluation or {}).get("corruptions") or {}).get("accuracy", {})

    @property
    def failed_checks(self) -> list[str]:
        """Names of the audit's checks that failed."""
        checks = [] if self.evaluation is None else self.evaluation["audit"]["checks"]
        return [check["name"] for check in checks if check["status"] == "fail"]


class Row(NamedTuple):
    """A row of a table: one cell per folder, None where it was not measured."""

    name: str
    cells: list[Any]
    note: str = ""


def write_comparison(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Write ``comparison.html``, in which two or more folders stand side by side.

    Args:
        folders: output folders of evaluations (with results.json), of training runs (with
            metrics.csv), or of runs that were evaluated (with evaluation/results.json).
        out: folder to write to; created if necessary.

    Returns:
        The path of comparison.html.

    Raises:
        UserError: fewer than two folders, or one that has neither file or a damaged one.
    """
    if len(folders) < 2:
        raise UserError(f"{len(folders)} folder: expected at least 2", option="compare")
    sides = [
        _read(Path(folder), name) for folder, name in zip(folders, _short(folders), strict=True)
    ]
    environment = Environment(
        loader=PackageLoader("sprout_fast.evaluation.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"ball": describe_ball}
    page = environment.get_template("side_by_side.html.jinja").render(
        sides=sides,
        evaluated=[side for side in sides if side.evaluation is not None],
        differences=_differences(sides),
        attacks=_attack_rows(sides),
        corruptions=_corruption_rows(sides),
        training=_training_rows(sides),
        figures=[(title, one.alt, data_url(png(one))) for title, one in _curves(sides)],
    )
    path = Path(out) / "comparison.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _short(folders: Sequence[str | Path]) -> list[str]:
    """Return the folders' names without the folder that holds them all.

    >>> _short(["runs/a/evaluation", "runs/b/evaluation"])
    ['a/evaluation', 'b/evaluation']
    """
    whole = [os.path.abspath(folder) for folder in folders]
    shared = os.path.commonpath([os.path.dirname(folder) for folder in whole])
    return [os.path.relpath(folder, shared) for folder in whole]


def _read(folder: Path, name: str) -> Side:
    content, rows = None, []
    results = [folder / "results.json", folder / "evaluation" / "results.json"]
    path = next((path for path in results if path.is_file()), None)
    if path is not None:
        try:
            content = json.loads(path.read_text())
            _ = content["verdict"]["clean_accuracy"], content["measurements"], content["audit"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: is not an evaluation's results ({error})") from error
    metrics = folder / "metrics.csv"
    if metrics.is_file():
        with open(metrics, newline="") as file:
            rows = list(csv.DictReader(file))
        if rows and "epoch" not in rows[0]:
            raise UserError(f"{metrics}: has no column epoch")
    if content is None and not metrics.is_file():
        raise UserError(f"{folder}: has neither results.json nor metrics.csv", option="compare")
    return Side(name, content, rows)


def _differences(sides: list[Side]) -> list[str]:
    """Return what makes the evaluations' accuracies incomparable."""
    evaluations = [side.evaluation for side in sides if side.evaluation is not None]
    values = {
        "norm": [one["verdict"]["norm"] for one in evaluations],
        "eps": [f"{one['verdict']['eps']:.4g}" for one in evaluations],
        "protocol": [one["parameters"]["protocol"] for one in evaluations],
        "share of the attacks' budgets": [one["parameters"]["scale"] for one in evaluations],
        "number of images": [one["verdict"]["images"] for one in evaluations],
    }
    found = [
        f"{name}: {', '.join(map(str, several))}"
        for name, several in values.items()
        if len(set(several)) > 1
    ]
    labels = {str(one["per_image"]["label"]) for one in evaluations}
    if len(labels) > 1 and len(set(values["number of images"])) == 1:
        found.append("the images: their labels differ")
    return found


def _names(each: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(itertools.chain.from_iterable(each)))


def _attack_rows(sides: list[Side]) -> list[Row]:
    rows = []
    for name in _names([list(side.attacks) for side in sides]):
        attacks = [side.attacks.get(name) for side in sides]
        described = {describe_attack(one["parameters"]) for one in attacks if one is not None}
        note = described.pop() if len(described) == 1 else "with different parameters"
        rows.append(
            Row(name, [one and (one["accuracy"], one["interval_95"]) for one in attacks], note)
        )
    return rows


def _corruption_rows(sides: list[Side]) -> list[Row]:
    def mean(values: dict[str, float] | None) -> float | None:
        return None if values is None else sum(values.values()) / len(values)

    rows = [
        Row(name.replace("_", " "), [mean(side.corruptions.get(name)) for side in sides])
        for name in _names([list(side.corruptions) for side in sides])
    ]
    if rows:
        summaries = [(side.evaluation or {}).get("corruptions") for side in sides]
        rows.append(Row("mean", [one and one["mean_accuracy"] for one in summaries]))
    return rows


def _training_rows(sides: list[Side]) -> list[Row]:
    """Return each column's value in the last epoch; and the best of val_top1."""
    if not any(side.epochs for side in sides):
        return []
    rows = []
    for name in _names([list(side.epochs[0]) if side.epochs else [] for side in sides]):
        last = [side.epochs[-1].get(name) if side.epochs else None for side in sides]
        rows.append(Row(name, [_shown(name, value) for value in last]))
        if name == "val_top1":
            best = [
                max((row.get(name) or "" for row in side.epochs), default="", key=_number)
                for side in sides
            ]
            rows.append(Row("val_top1, best epoch", [_shown(name, value) for value in best]))
    return rows


def _shown(name: str, value: str | None) -> str | None:
    if not value:
        return None
    return f"{100 * float(value):.1f} %" if name.endswith(_FRACTIONS) else f"{float(value):.4g}"


def _number(value: str) -> float:
    return float(value) if value else -math.inf


@matplotlib.rc_context(STYLE)
def _curves(sides: list[Side]) -> list[tuple[str, Drawing]]:
    """Return titles and figures: accuracy over eps and severity, and metrics over epochs."""
    found = []
    by_eps = [_by_eps(side) for side in sides]
    if any(len(points) > 1 for points in by_eps):
        found.append(("Accuracy under PGD over eps", _curve(sides, by_eps, "eps", "accuracy (%)")))
    severities = [_by_severity(side) for side in sides]
    if any(severities):
        drawing = _curve(sides, severities, "severity", "accuracy (%)")
        found.append(("Mean accuracy under corruptions", drawing))
    for name in _names([list(side.epochs[0]) if side.epochs else [] for side in sides]):
        if name not in _WITHOUT_CURVE:
            scale, unit = (100, " (%)") if name.endswith(_FRACTIONS) else (1, "")
            points = [
                [
                    (float(row["epoch"]), scale * float(row[name]))
                    for row in side.epochs
                    if row.get(name)
                ]
                for side in sides
            ]
            if any(points):
                found.append((f"{name} per epoch", _curve(sides, points, "epoch", name + unit)))
    return found


def _by_eps(side: Side) -> list[tuple[float, float]]:
    """Return (eps, accuracy in %) of untargeted PGD in the ball's norm.

    It is the lowest of each eps and of smaller ones, whose errors are in the larger balls, too.
    """
    if side.evaluation is None:
        return []
    verdict = side.evaluation["verdict"]
    lowest = {0.0: 100 * verdict["clean_accuracy"]}
    for attack in side.attacks.values():
        parameters = attack["parameters"]
        plain = parameters["attack"] == "pgd" and not parameters["options"].get("target")
        near = parameters["eps"] <= 4.01 * verdict["eps"]  # beyond, all accuracies are 0
        if plain and near and parameters["norm"] == verdict["norm"]:
            eps = parameters["eps"]
            lowest[eps] = min(100 * attack["accuracy"], lowest.get(eps, 100.0))
    eps, accuracies = zip(*sorted(lowest.items()), strict=True)
    return list(zip(eps, itertools.accumulate(accuracies, min), strict=True))


def _by_severity(side: Side) -> list[tuple[float, float]]:
    every: dict[float, list[float]] = {}
    for by_severity in side.corruptions.values():
        for severity, accuracy in by_severity.items():
            every.setdefault(float(severity), []).append(100 * accuracy)
    return [(severity, sum(values) / len(values)) for severity, values in sorted(every.items())]


def _curve(
    sides: list[Side], points: list[list[tuple[float, float]]], across: str, up: str
) -> Drawing:
    figure, axes = new_axes()
    described = []
    for side, line, style in zip(sides, points, itertools.cycle(_SERIES)):
        if line:
            xs, ys = [x for x, _ in line], [y for _, y in line]
            marker = style["marker"] if len(xs) < 30 else None
            axes.plot(xs, ys, label=side.name, color=style["color"], marker=marker)
            described.append(
                f"{side.name}: {ys[0]:.4g} at {xs[0]:.3g} to {ys[-1]:.4g} at {xs[-1]:.3g}"
            )
    axes.set(xlabel=across, ylabel=up)
    if up == "accuracy (%)":
        axes.set_ylim(-3, 103)
    if across != "eps":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(figure)
    return Drawing(figure, f"{up} over {across}. {'; '.join(described)}.")
