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
from reproduction.store import Store, write_json
from sprout_fast.evaluation.report.plots.base import STYLE
from sprout_fast.evaluation.results import versions

INTERVALS = (
    "In parentheses: 95 % confidence intervals over the choice of images, not over seeds; seconds"
    " are medians with quartiles."
)


def headline(exhibit: Exhibit) -> str:
    """Return the first line of all output."""
    scale = exhibit.scale
    if scale.is_full:
        return (
            f"{exhibit.name}: {exhibit.title}. One run, with the paper's sizes if it states them."
        )
    return (
        f"{exhibit.name} SCALED DOWN (--scale {scale.value:g}): these numbers are not comparable to"
        f" the paper's. {exhibit.title[0].upper()}{exhibit.title[1:]}."
    )


class SideBySide:
    """A table or figure with its measured values."""

    def __init__(self, findings: Findings, store: Store, argv: Sequence[str]) -> None:
        self.findings, self.exhibit, self.store = findings, findings.exhibit, store
        self.has_published = any(cell.published is not None for cell in self.exhibit.cells)
        self.values = [(cell, findings.value(cell)) for cell in self.exhibit.cells]
        self.command = shlex.join(["python", "tools/reproduce_paper.py", *argv])
        self.date = date.today().isoformat()

    def print_to(self, console: Console) -> None:
        """Print the table and notes to a terminal."""

        def line(text: str) -> None:
            console.print(text, markup=False, highlight=False, soft_wrap=True)

        line(headline(self.exhibit))
        table = console_table(["", *self.exhibit.columns()], self._rows(), left=1)
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
        if not self.exhibit.scale.is_full:
            title += ", scaled down: not comparable to the paper's"
        style: Any = STYLE
        with matplotlib.rc_context(style):
            figure = self.exhibit.draw(self.findings)
            figure.suptitle(title, fontsize="medium")
            figure.savefig(paths[2], dpi=120)
        return paths

    def _legend(self) -> str:
        if self.has_published:
            return f"Measured value | the paper's. {INTERVALS}"
        return f"Measured values; the paper's figure has no numbers. {INTERVALS}"

    def _rows(self) -> list[list[str]]:
        texts = {}
        for cell, value in self.values:
            text = value_text(value)
            if self.has_published:
                text += " | -" if cell.published is None else f" | {cell.published:g}"
            texts[cell.row, cell.column] = text
        columns = self.exhibit.columns()
        return [
            [row, *(texts.get((row, column), "") for column in columns)]
            for row in self.exhibit.rows()
        ]

    def _notes(self) -> dict[str, list[str]]:
        exhibit, scale = self.exhibit, self.exhibit.scale
        found = {
            "scaled down": scale.lines(exhibit.dataset, exhibit.networks),
            "choices where the paper is not specific": exhibit.chosen,
            "remarks on the paper's numbers": exhibit.footnotes,
        }
        if exhibit.measured():
            found["images"] = [self.store.described(exhibit.dataset)]
        return {title: lines for title, lines in found.items() if lines}

    def _markdown(self) -> str:
        rows = [[cell.replace("|", "\\|") for cell in row] for row in self._rows()]
        blocks = [
            headline(self.exhibit) + "\n",
            f"`{self.command}`, {self.date}, torch {torch.__version__}, {self.store.device}\n",
            markdown_table(["", *self.exhibit.columns()], rows, left=1),
            self._legend() + "\n",
        ]
        for title, lines in self._notes().items():
            blocks.append(f"{title}:\n\n" + "".join(f"- {text}\n" for text in lines))
        return "\n".join(blocks)

    def _json(self) -> dict[str, Any]:
        exhibit = self.exhibit
        return {
            "exhibit": exhibit.name,
            "headline": headline(exhibit),
            "comparable_in_size": exhibit.scale.is_full,
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
                    "paper": cell.published,
                }
                for cell, value in self.values
            ],
            "trainings": [
                {
                    "label": one.label,
                    "folder": str(self.store.folder(one).relative_to(self.store.out)),
                    "options": dict(one.options),
                    "images": one.limit,
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
