"""What was measured, as tables for a terminal, as Markdown and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console

from training_benchmark.baselines import TimmNatural, TorchvisionNatural
from training_benchmark.machine import caption
from training_benchmark.parts import PARTS
from training_benchmark.published import published_ratio
from training_benchmark.rounds import Timings
from training_benchmark.tables import console_table, markdown_table

NATURAL, SPROUT = "natural", "sprout"
NOTE = "note"
EXPLANATION = (
    "Medians, [quartiles]. ratio: to natural in the same round; paper: the paper's ratio, whose"
    " SPROUT goes through the network a second time for beta, as the row 'sprout, two passes' does."
)
PARTS_EXPLANATION = (
    "ms of a step, median, and its share of the sum. loss: with beta's ascent; optimizer: with"
    " gradients zeroed, schedule and log; attack: all else, freeing the batch included."
)

# DESIGN.md's floors: what SPROUT adds, as a share of natural's step, by (arch, side).
_ADDED_AT_MOST = {
    ("resnet152", 224): 0.001,
    ("vgg16_bn", 32): 0.002,
    ("cifar_vgg16", 32): 0.002,
    ("cifar_resnet20", 32): 0.005,
}
_WHOLE_STEP_AT_MOST = 1.0
_FEWEST_ROUNDS = 5  # for a verdict on a ratio near 1


@dataclass
class Report:
    """A measurement.

    Args:
        machine: `machine_info` and ``others``. date: ISO.
        command: what can be typed to measure again.
        arch, image_size, batch_size, images_per_epoch: what a step and an epoch are.
        setting: one line on precision, layout and loader.
        timings: of the rows, `natural` among them.
        notes: by row. unavailable: rows that could not be measured, and why.
        parts: of `measure_parts`, by method. added: of `measure_added`, by method.
    """

    machine: dict[str, Any]
    date: str
    command: str
    arch: str
    image_size: int
    batch_size: int
    images_per_epoch: int
    setting: str
    timings: Timings
    notes: dict[str, str] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    parts: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    added: dict[str, list[float]] = field(default_factory=dict)

    def rows(self) -> Iterator[list[str]]:
        """Of the main table, `COLUMNS`."""
        for row in self.timings.seconds:
            seconds = self.timings.of(row)
            epoch = statistics.median(seconds) * self.images_per_epoch / self.batch_size
            published = published_ratio(self.arch, row)
            yield [
                row,
                str(len(seconds)),
                spread([1e3 * one for one in seconds], 4),
                f"{epoch:,.4g}" if epoch < 1e4 else f"{epoch:,.0f}",
                f"{10 * epoch:,.4g}" if epoch < 1e3 else f"{10 * epoch:,.0f}",
                spread(self.timings.ratios(row, NATURAL), 3),
                "" if published is None else f"{published:.2f}",
                self.notes.get(row, ""),
            ]
        for row, reason in self.unavailable.items():
            yield [row, "0", *[""] * 5, f"not measured: {reason}"]

    def part_rows(self) -> Iterator[list[str]]:
        """Of the table of parts: a row for each method."""
        for name, steps in self.parts.items():
            medians = [statistics.median(step[part] for step in steps) for part in PARTS]
            cells = [f"{1e3 * m:.3g} ({m / sum(medians):.1%})" for m in medians]
            yield [name, str(len(steps)), *cells, f"{1e3 * sum(medians):.4g}"]

    def floor_rows(self) -> Iterator[list[str]]:
        """Of the table of DESIGN.md's floors, as far as the rows were measured."""
        if {NATURAL, SPROUT} <= self.added.keys():
            natural = min(self.timings.of(NATURAL))
            difference = self.added_seconds()
            most = _ADDED_AT_MOST.get((self.arch, self.image_size))
            yield [
                "what SPROUT adds (mixer, loss, beta, less normalisation and cross entropy) /"
                " natural's step, quickest of each",
                "none" if most is None else f"≤ {most:.1%}",
                f"{difference / natural:.3%} ({1e6 * difference:.3g} µs)",
                "" if most is None else verdict(difference / natural, most),
            ]
        measured = self.timings.seconds.keys()
        for kind in (TorchvisionNatural, TimmNatural):
            if {kind.row, SPROUT} <= measured:
                ratios = self.timings.ratios(SPROUT, kind.row)
                yield [
                    f"sprout's step / {kind.row}'s",
                    f"≤ {_WHOLE_STEP_AT_MOST:.2f}",
                    spread(ratios, 3),
                    verdict_of_rounds(ratios, _WHOLE_STEP_AT_MOST),
                ]

    def added_seconds(self) -> float:
        """What SPROUT adds to natural's step, by their quickest turns: a turn lasts as long as a
        time slice, which others' work takes from every second one on a busy machine."""
        return min(self.added[SPROUT]) - min(self.added[NATURAL])

    def captions(self) -> tuple[str, str]:
        """What was measured, and on what."""
        return (
            f"{self.arch}, {self.image_size} pixels, batch {self.batch_size}, {self.setting};"
            f" {self.images_per_epoch:,} images an epoch",
            caption(self.machine, self.date),
        )

    def print_to(self, console: Console) -> None:
        """For a terminal; without frames and colours where there is none."""

        def line(text: str, style: str = "") -> None:
            console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

        what, where = self.captions()
        line(what, "bold")
        console.print(console_table(COLUMNS, self.rows(), left=1, wrapped=NOTE))
        line(EXPLANATION, "dim")
        for columns, rows, left, text in self._further():
            line("")
            console.print(console_table(columns, rows, left))
            if text:
                line(text, "dim")
        line("\n" + where)

    def markdown(self) -> str:
        """The same for a README."""
        what, where = self.captions()
        main = markdown_table(COLUMNS, self.rows(), left=1)
        blocks = [f"`{self.command}`: {what}. {where}.\n", main, EXPLANATION + "\n"]
        for columns, rows, left, text in self._further():
            blocks += [markdown_table(columns, rows, left), text + "\n" if text else ""]
        return "\n".join(filter(None, blocks))

    def _further(self) -> Iterator[tuple[Sequence[str], list[list[str]], int, str]]:
        """The tables after the first that have rows: columns, rows, columns of text, words."""
        for columns, rows, text in (
            (PART_COLUMNS, list(self.part_rows()), PARTS_EXPLANATION),
            (FLOOR_COLUMNS, list(self.floor_rows()), ""),
        ):
            if rows:
                yield columns, rows, 1, text

    def as_json(self) -> dict[str, Any]:
        """Everything, every raw time in seconds."""
        return asdict(self)


COLUMNS = ["", "rounds", "ms a step", "s an epoch", "s for 10", "ratio", "paper", NOTE]
PART_COLUMNS = ["", "steps", *PARTS, "sum"]
FLOOR_COLUMNS = ["floor of the design", "bound", "measured", ""]


def spread(values: Sequence[float], significant: int) -> str:
    """Median and quartiles; the median alone of one value.

    >>> spread([1.0, 2.0, 3.0, 4.0, 5.0], 3), spread([2.0], 3)
    ('3.00 [2.00, 4.00]', '2.00')
    """
    median = statistics.median(values)
    decimals = max(0, significant - len(f"{median:.0f}"))
    shown = f"{median:,.{decimals}f}"
    if len(values) == 1:
        return shown
    low, high = quartiles(values)
    return f"{shown} [{low:,.{decimals}f}, {high:,.{decimals}f}]"


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The first and the third, of two values or more."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def verdict(value: float, at_most: float) -> str:
    """Of a floor."""
    return "reached" if value <= at_most else "missed"


def verdict_of_rounds(ratios: Sequence[float], at_most: float) -> str:
    """Of a floor that the median has to keep, and whether the measurement is fine enough to say.

    >>> verdict_of_rounds([0.9, 0.9, 0.9, 1.0, 1.1], 1.0)
    'reached'
    >>> verdict_of_rounds([0.9, 0.9, 1.1, 1.2, 1.2], 1.0)
    'missed, within the spread'
    >>> verdict_of_rounds([0.9, 0.9], 1.0)
    'too few rounds'
    """
    if len(ratios) < _FEWEST_ROUNDS:
        return "too few rounds"
    low, high = quartiles(ratios)
    within = ", within the spread" if low <= at_most < high else ""
    return verdict(statistics.median(ratios), at_most) + within
