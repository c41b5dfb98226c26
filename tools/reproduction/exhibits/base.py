"""A table or figure of the paper: its cells, each with the measurement it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from reproduction.datasets import CIFAR, DataSet
from reproduction.scale import Scale
from reproduction.training import Training, with_starts
from sprout_fast.evaluation import Accuracy
from sprout_fast.evaluation.measurements import Measurement
from sprout_fast.evaluation.protocols import paper
from sprout_fast.evaluation.recorder import AccuracyRecord, Record
from sprout_fast.registry import Registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reproduction.findings import Findings

Kind = Literal["table", "figure"]


@dataclass(frozen=True)
class Value:
    """A number with its 95 % interval over ``images``, or with its quartiles over ``rounds``."""

    number: float
    low: float | None = None
    high: float | None = None
    images: int | None = None
    rounds: int | None = None
    is_percent: bool = False


Read = Callable[[Record], Value]


def accuracy(record: Record) -> Value:
    """Return a record's accuracy in percent with Wilson's interval."""
    assert isinstance(record, AccuracyRecord), record.name
    return percent(record.accuracy)


def percent(found: Accuracy) -> Value:
    """Return an accuracy in percent with Wilson's interval.

    >>> percent(Accuracy(1, 2)).number
    50.0
    """
    low, high = found.interval
    return Value(100 * found.top1, 100 * low, 100 * high, images=found.total, is_percent=True)


def mean_of(column: str, *place: int) -> Read:
    """Return a function that averages a column of a record over images.

    The interval is that of the normal distribution.

    Args:
        column: name of the column.
        place: index into each image's array.
    """

    def read(record: Record) -> Value:
        values = record.columns[column].double()[(slice(None), *place)]
        mean = values.mean().item()
        if len(values) < 2:
            return Value(mean, images=len(values))
        half = 1.96 * values.std().item() / len(values) ** 0.5
        return Value(mean, mean - half, mean + half, images=len(values))

    return read


@dataclass(frozen=True)
class Measured:
    """A cell whose value is read from a measurement of a trained model.

    Args:
        training: training of the model.
        measurement: what to measure.
        read: returns the value from the measurement's record.
        source: training of the model that transferred attacks are computed on.
    """

    training: Training
    measurement: Measurement
    read: Read = accuracy
    source: Training | None = None


@dataclass(frozen=True)
class Timed:
    """A cell with a method's seconds for ten epochs of 50,000 images."""

    arch: str
    method: str


@dataclass(frozen=True)
class Beta:
    """A cell with the product of the final beta of two classes."""

    training: Training
    one: int
    other: int


Source = Measured | Timed | Beta


@dataclass(frozen=True)
class Cell:
    """One cell; ``published`` is the paper's number, or None if it states none."""

    row: str
    column: str
    source: Source
    published: float | None = None


@dataclass
class Exhibit:
    """A table or figure.

    Args:
        kind, number: as in the paper.
        title: what it shows.
        scale: scale of the measurements.
        cells: in reading order.
        networks: the paper's networks that are trained.
        dataset: data set that they are trained on.
        chosen: choices where the paper is not specific. Sizes and options are not among them: the
            report derives those from what ran.
        incomparable: what differs from the paper even at scale 1, in one line.
        footnotes: remarks on the paper's numbers.
        remarks: returns remarks on the measured numbers.
        draw: draws the figure; None for a table.
    """

    kind: Kind
    number: int
    title: str
    scale: Scale
    cells: list[Cell]
    networks: list[str]
    dataset: DataSet = CIFAR
    chosen: list[str] = field(default_factory=list)
    incomparable: str | None = None
    footnotes: list[str] = field(default_factory=list)
    remarks: Callable[[Findings], list[str]] | None = None
    draw: Callable[[Findings], Figure] | None = None

    @property
    def name(self) -> str:
        """Display name, e.g. ``"Table 7"``."""
        return f"{self.kind.capitalize()} {self.number}"

    @property
    def stem(self) -> str:
        """Name of its files without suffix."""
        return f"{self.kind}_{self.number}"

    def trainings(self) -> list[Training]:
        """Return all trainings, in an executable order."""
        wanted = []
        for cell in self.cells:
            wanted += [
                one
                for one in (
                    getattr(cell.source, "training", None),
                    getattr(cell.source, "source", None),
                )
                if one is not None
            ]
        return with_starts(wanted)

    def measured(self) -> dict[tuple[Training, Training | None], dict[str, Measurement]]:
        """Return measurements by name for each pair of a model and the source of its attacks."""
        found: dict[tuple[Training, Training | None], dict[str, Measurement]] = {}
        for cell in self.cells:
            if isinstance(cell.source, Measured):
                pair = (cell.source.training, cell.source.source)
                found.setdefault(pair, {})[cell.source.measurement.name] = cell.source.measurement
        return found

    def timed(self) -> list[str]:
        """Return the networks whose training steps are timed."""
        return list(
            dict.fromkeys(cell.source.arch for cell in self.cells if isinstance(cell.source, Timed))
        )

    def rows(self) -> list[str]:
        """Return the names of the rows."""
        return list(dict.fromkeys(cell.row for cell in self.cells))

    def parts(self) -> list[tuple[list[str], list[str]]]:
        """Return rows and columns of each part: rows that have their columns in common.

        Most exhibits have one part; rows that are merely incomplete belong to it.
        """
        found: list[tuple[list[str], list[str]]] = []
        for row in self.rows():
            own = [cell.column for cell in self.cells if cell.row == row]
            part = next((part for part in found if {*part[1]} & {*own}), None)
            if part is None:
                found.append(part := ([], []))
            part[0].append(row)
            part[1].extend(column for column in own if column not in part[1])
        return found


Builder = Callable[[Scale], Exhibit]
#: Functions that build an exhibit for a scale, by name, e.g. ``"table 7"``.
EXHIBITS: Registry[Builder] = Registry("exhibit", __package__)


def paper_measurement(scale: Scale, name: str, dataset: DataSet = CIFAR) -> Measurement:
    """Return the measurement of the paper's protocol with this name."""
    return next(one for one in paper(scale.setting(dataset)) if one.name == name)
