"""Tables, Markdown and JSON of the measured step times."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console

from sprout_fast.paper import VGG, WRN, published
from training_benchmark.baselines import TimmNatural, TorchvisionNatural
from training_benchmark.machine import caption
from training_benchmark.parts import PARTS
from training_benchmark.rounds import Timings
from training_benchmark.tables import console_table, markdown_table

NATURAL, SPROUT = "natural", "sprout"
NOTE = "note"
COLUMNS = ["", "rounds", "ms per step", "img/s", "s per epoch", "s for 10", "ratio", "paper", NOTE]
PART_COLUMNS = ["", "steps", *PARTS, "sum"]
FLOOR_COLUMNS = ["target", "bound", "measured", ""]
EXPLANATION = (
    "Medians [quartiles]. img/s: of all processes; ratio: to natural in the same round; paper: the"
    " paper's ratio, whose SPROUT makes a second forward and backward pass for beta, like the row"
    " 'sprout, two passes'."
)
PARTS_EXPLANATION = (
    "Median ms per step and share of the sum. loss: including beta's ascent; optimizer: including"
    " zeroing gradients, schedule and logging; attack: all other time, including freeing the batch."
)

# Targets in docs/design.md: what SPROUT adds, relative to a natural step, by (arch, image size).
_ADDED_AT_MOST = {
    ("resnet152", 224): 0.001,
    ("vgg16_bn", 32): 0.002,
    ("cifar_vgg16", 32): 0.002,
    ("cifar_resnet20", 32): 0.005,
}
_WHOLE_STEP_AT_MOST = 1.0
_FEWEST_ROUNDS = 5  # for a verdict on a ratio near 1

# Architectures by prefix, and the paper's training times that compare with theirs.
_PUBLISHED = {
    "vgg16": published(6, VGG),
    "wrn34": published(6, WRN),
    "resnet152": published(None, "ResNet-152"),
}


def published_ratio(arch: str, row: str) -> float | None:
    """Return the paper's training time of a row relative to natural training.

    The paper's SPROUT is Algorithm 1 with a separate backpropagation for beta, so the row
    ``sprout, two passes`` has the same ratio.

    Args:
        arch: the paper's network most similar to it is used; None is returned if there is none.
        row: name of the row; None is returned if the paper does not time it.

    >>> round(published_ratio("cifar_vgg16", "sprout"), 2)
    1.85
    """
    for prefix, table in _PUBLISHED.items():
        if arch.removeprefix("cifar_").startswith(prefix):
            seconds = table.column("seconds")
            found = seconds.get(row.removesuffix(", two passes"))
            return None if found is None else found / seconds["natural"]
    return None


@dataclass
class StepTimes:
    """A finished measurement.

    Args:
        machine: ``machine_info`` with ``others``, the share of CPU time used by other processes.
        date: ISO date.
        command: command line that repeats the measurement.
        arch, image_size, batch_size: what a step consists of.
        images_per_epoch: what an epoch consists of.
        processes: number of processes, each with a batch of its own.
        seconds: seconds for everything.
        setting: one line about precision, memory layout and images.
        timings: by row, including ``natural``.
        notes: by row.
        unavailable: rows that could not be measured, and why.
        parts: result of ``measure_parts``, by method.
        added: result of ``measure_added``, by method.
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
    processes: int = 1
    seconds: float = 0.0

    def rows(self) -> Iterator[list[str]]:
        """Yield the main table's rows, with ``COLUMNS``."""
        per_step = self.batch_size * self.processes
        for row in self.timings.seconds:
            seconds = self.timings.of(row)
            epoch = statistics.median(seconds) * self.images_per_epoch / per_step
            paper = published_ratio(self.arch, row)
            yield [
                row,
                str(len(seconds)),
                spread([1e3 * one for one in seconds], 4),
                f"{per_step / statistics.median(seconds):,.4g}",
                f"{epoch:,.4g}" if epoch < 1e4 else f"{epoch:,.0f}",
                f"{10 * epoch:,.4g}" if epoch < 1e3 else f"{10 * epoch:,.0f}",
                spread(self.timings.ratios(row, NATURAL), 3),
                "" if paper is None else f"{paper:.2f}",
                self.notes.get(row, ""),
            ]
        for row, reason in self.unavailable.items():
            yield [row, "0", *[""] * 6, f"not measured: {reason}"]

    def part_rows(self) -> Iterator[list[str]]:
        """Yield the rows of the table of parts, one per method, with ``PART_COLUMNS``."""
        for name, steps in self.parts.items():
            medians = [statistics.median(step[part] for step in steps) for part in PARTS]
            cells = [f"{1e3 * m:.3g} ({m / sum(medians):.1%})" for m in medians]
            yield [name, str(len(steps)), *cells, f"{1e3 * sum(medians):.4g}"]

    def floor_rows(self) -> Iterator[list[str]]:
        """Yield the rows of the table of speed targets, with ``FLOOR_COLUMNS``."""
        if {NATURAL, SPROUT} <= self.added.keys():
            graph = f"{NATURAL}, graph"  # without the host's time, which the added one lacks too
            row = graph if graph in self.timings.seconds else NATURAL
            natural = min(self.timings.of(row))
            difference = self.added_seconds()
            most = _ADDED_AT_MOST.get((self.arch, self.image_size))
            yield [
                "what SPROUT adds (mixer, loss and beta, minus normalization and cross entropy)"
                " / natural step, fastest of each",
                "none" if most is None else f"≤ {most:.1%}",
                f"{difference / natural:.3%} ({1e6 * difference:.3g} µs)",
                "" if most is None else verdict(difference / natural, most),
            ]
        measured = self.timings.seconds.keys()
        for kind in (TorchvisionNatural, TimmNatural):
            if {kind.row, SPROUT} <= measured:
                ratios = self.timings.ratios(SPROUT, kind.row)
                yield [
                    f"sprout step / {kind.row} step",
                    f"≤ {_WHOLE_STEP_AT_MOST:.2f}",
                    spread(ratios, 3),
                    verdict_of_rounds(ratios, _WHOLE_STEP_AT_MOST),
                ]

    def added_seconds(self) -> float:
        """Return what SPROUT adds to a natural step, from the fastest turn of each.

        A turn is about as long as a scheduler time slice, so on a busy machine other processes
        may interrupt every second one.
        """
        return min(self.added[SPROUT]) - min(self.added[NATURAL])

    def captions(self) -> tuple[str, str]:
        """Return what was measured, and the machine it was measured on."""
        return (
            f"{self.arch}, {self.image_size} pixels, batch size {self.batch_size}"
            + (f" x {self.processes} processes" if self.processes > 1 else "")
            + f", {self.setting}; {self.images_per_epoch:,} images per epoch;"
            f" measured in {self.seconds:.0f} s",
            caption(self.machine, self.date),
        )

    def print_to(self, console: Console) -> None:
        """Print everything to a terminal, or as plain text to a file."""

        def line(text: str, style: str = "") -> None:
            console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

        what, machine = self.captions()
        line(what, "bold")
        console.print(console_table(COLUMNS, self.rows(), left=1, wrapped=NOTE))
        line(EXPLANATION, "dim")
        for columns, rows, left, text in self._further():
            line("")
            console.print(console_table(columns, rows, left))
            if text:
                line(text, "dim")
        line("\n" + machine)

    def markdown(self) -> str:
        """Return the same as Markdown."""
        what, machine = self.captions()
        main = markdown_table(COLUMNS, self.rows(), left=1)
        blocks = [f"`{self.command}`: {what}. {machine}.\n", main, EXPLANATION + "\n"]
        for columns, rows, left, text in self._further():
            blocks += [markdown_table(columns, rows, left), text + "\n" if text else ""]
        return "\n".join(filter(None, blocks))

    def _further(self) -> Iterator[tuple[Sequence[str], list[list[str]], int, str]]:
        """Yield columns, rows, number of text columns and explanation of the other tables."""
        for columns, rows, text in (
            (PART_COLUMNS, list(self.part_rows()), PARTS_EXPLANATION),
            (FLOOR_COLUMNS, list(self.floor_rows()), ""),
        ):
            if rows:
                yield columns, rows, 1, text

    def as_json(self) -> dict[str, Any]:
        """Return everything for JSON, including every raw time in seconds."""
        return asdict(self)


def spread(values: Sequence[float], significant: int) -> str:
    """Format the median and quartiles, or the median alone of a single value.

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
    """Return the first and third quartile of two or more values."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def verdict(value: float, at_most: float) -> str:
    """Return ``"reached"`` or ``"missed"``."""
    return "reached" if value <= at_most else "missed"


def verdict_of_rounds(ratios: Sequence[float], at_most: float) -> str:
    """Return the verdict on the median, and whether the measurement is precise enough for it.

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
