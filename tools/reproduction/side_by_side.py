"""Measured values next to the paper's, for a terminal, as Markdown and as JSON."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import matplotlib
import torch
from rich.console import Console
from rich.measure import Measurement
from training_benchmark.tables import console_table, markdown_table

from reproduction.exhibits.base import Exhibit, Value
from reproduction.findings import Findings
from reproduction.store import Store
from reproduction.what_ran import differences, timing_lines, training_lines
from sprout_fast.evaluation.report.plots.base import STYLE
from sprout_fast.evaluation.results import versions
from sprout_fast.files import write_json


def headline(exhibit: Exhibit, differences: Sequence[str] | None = None) -> str:
    """Return the first line of all output.

    Args:
        exhibit: the table or figure.
        differences: what differs from the paper's sizes; None if nothing has run yet.
    """
    if differences is None and exhibit.scale.is_full:
        return f"{exhibit.name}: {exhibit.title}."
    if not differences and exhibit.scale.is_full:
        return (
            f"{exhibit.name}: {exhibit.title}. One run, with the paper's sizes if it states them."
        )
    scale = "" if exhibit.scale.is_full else f" (--scale {exhibit.scale.value:g})"
    return (
        f"{exhibit.name} SCALED DOWN{scale}: these numbers are not comparable to the paper's."
        f" {exhibit.title[0].upper()}{exhibit.title[1:]}."
    )


class SideBySide:
    """A table or figure with its measured values."""

    def __init__(self, findings: Findings, store: Store, argv: Sequence[str]) -> None:
        self.findings, self.exhibit, self.store = findings, findings.exhibit, store
        self.has_published = any(cell.published is not None for cell in self.exhibit.cells)
        self.values = [(cell, findings.value(cell)) for cell in self.exhibit.cells]
        self.differences = differences(self.exhibit, store)
        self.headline = headline(self.exhibit, self.differences)
        self.command = shlex.join(["python", "tools/reproduce_paper.py", *argv])
        self.date = date.today().isoformat()

    def print_to(self, console: Console) -> None:
        """Print the table and notes to a terminal."""

        def line(text: str) -> None:
            console.print(text, markup=False, highlight=False, soft_wrap=True)

        line(self.headline)
        for columns, rows in self._parts():
            table = console_table(columns, rows, left=1)
            # Let a narrow terminal wrap lines, because rich would drop columns.
            needed = Measurement.get(console, console.options.update(max_width=1000), table).maximum
            Console(file=console.file, width=max(console.width, needed)).print(table)
        line(self._legend())
        for title, lines in self._notes().items():
            line(f"\n{title}:")
            for text in lines:
                line(f"- {text}")

    def write(self, out: Path) -> list[Path]:
        """Write ``table_N.md``, ``.json`` and, for a figure, ``.png``; returns their paths."""
        paths = [out / f"{self.exhibit.stem}.{suffix}" for suffix in ("md", "json", "png")]
        paths[0].write_text(self._markdown(), encoding="utf-8")
        write_json(paths[1], self._json())
        if self.exhibit.draw is None:
            return paths[:2]
        title = self.exhibit.name
        if self.differences:
            title += ", scaled down: not comparable to the paper's"
        style: Any = STYLE
        with matplotlib.rc_context(style):
            figure = self.exhibit.draw(self.findings)
            figure.suptitle(title, fontsize="medium")
            figure.savefig(paths[2], dpi=120)
        return paths

    def _legend(self) -> str:
        values = [value for _, value in self.values]
        legend = ["Measured value | the paper's."]
        if not self.has_published:
            legend = ["Measured values; the paper's figure has no numbers."]
        if any(value.images is not None and value.low is not None for value in values):
            legend.append(
                "In parentheses: 95 % confidence intervals over the choice of images, not over"
                " seeds."
            )
        if rounds := [value.rounds for value in values if value.rounds is not None]:
            low, high = min(rounds), max(rounds)
            made = f"{low}" if low == high else f"{low} to {high}"
            legend.append(
                "Seconds: one round each, so without an interval."
                if high == 1
                else f"Seconds: medians over {made} rounds, with quartiles where there are several."
            )
        return " ".join(legend)

    def _parts(self) -> list[tuple[list[str], list[list[str]]]]:
        """Return headings and rows of each part."""
        texts = {}
        for cell, value in self.values:
            text = value_text(value)
            if self.has_published:
                text += " | -" if cell.published is None else f" | {cell.published:g}"
            texts[cell.row, cell.column] = text
        return [
            (
                ["", *columns],
                [[row, *(texts.get((row, column), "") for column in columns)] for row in rows],
            )
            for rows, columns in self.exhibit.parts()
        ]

    def _notes(self) -> dict[str, list[str]]:
        exhibit, store = self.exhibit, self.store
        found = {
            "remarks": [] if exhibit.remarks is None else exhibit.remarks(self.findings),
            "scaled down": self.differences,
            "not comparable at any scale": [exhibit.incomparable] if exhibit.incomparable else [],
            "trainings": training_lines(exhibit, store),
            "timings": timing_lines(exhibit, store),
            "choices where the paper is not specific": exhibit.chosen,
            "remarks on the paper's numbers": exhibit.footnotes,
        }
        if exhibit.trainings():
            found["images"] = [store.described(exhibit.dataset)]
        return {title: lines for title, lines in found.items() if lines}

    def _markdown(self) -> str:
        blocks = [
            self.headline + "\n",
            f"`{self.command}`, {self.date}, torch {torch.__version__}, {self.store.device}\n",
        ]
        for columns, rows in self._parts():
            escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
            blocks.append(markdown_table(columns, escaped, left=1))
        blocks.append(self._legend() + "\n")
        for title, lines in self._notes().items():
            blocks.append(f"{title}:\n\n" + "".join(f"- {text}\n" for text in lines))
        return "\n".join(blocks)

    def _json(self) -> dict[str, Any]:
        exhibit = self.exhibit
        return {
            "exhibit": exhibit.name,
            "headline": self.headline,
            "comparable_in_size": not self.differences,
            "command": self.command,
            "date": self.date,
            "scale": exhibit.scale.value,
            "seed": exhibit.scale.seed,
            "versions": versions(),
            "notes": self._notes(),
            "cells": [
                {
                    "row": cell.row,
                    "column": cell.column,
                    "measured": value.number,
                    "low": value.low,
                    "high": value.high,
                    "images": value.images,
                    "rounds": value.rounds,
                    "paper": cell.published,
                }
                for cell, value in self.values
            ],
            "trainings": [
                {
                    "label": one.label,
                    "folder": str(self.store.folder(one).relative_to(self.store.out)),
                    "options": dict(one.options),
                    "images": self.store.counts(one.dataset).train,
                    "starts_from": one.start and one.start.name,
                }
                for one in exhibit.trainings()
            ],
        }


def value_text(value: Value) -> str:
    """Format a value and its interval.

    >>> value_text(Value(12.345, 10.0, 15.0, is_percent=True)), value_text(Value(0.01234))
    ('12.3 (10.0 to 15.0)', '0.0123')
    """

    def show(number: float) -> str:
        if value.is_percent:
            return f"{number:.1f}"
        return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"

    if value.low is None or value.high is None:
        return show(value.number)
    return f"{show(value.number)} ({show(value.low)} to {show(value.high)})"
