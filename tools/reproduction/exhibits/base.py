"""What a table or figure of the paper is: cells, each with what has to be measured for it."""

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
from sprout_fast.evaluation.recorder import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reproduction.findings import Findings

Kind = Literal["table", "figure"]


@dataclass(frozen=True)
class Value:
    """A number, its 95 % interval (of seconds: its quartiles), and how many images it rests on."""

    number: float
    low: float | None = None
    high: float | None = None
    images: int | None = None
    is_percent: bool = False


Read = Callable[[Record], Value]


def accuracy(record: Record) -> Value:
    """In percent, with Wilson's interval."""
    return percent(record.accuracy)


def percent(found: Accuracy) -> Value:
    """An accuracy as a cell has it.

    >>> percent(Accuracy(1, 2)).number
    50.0
    """
    low, high = found.interval
    return Value(100 * found.top1, 100 * low, 100 * high, found.total, is_percent=True)


def mean_of(column: str, *place: int) -> Read:
    """The mean of a record's column (at ``place`` of each image's array), with the interval of the
    normal distribution."""

    def read(record: Record) -> Value:
        values = record.columns[column].double()[(slice(None), *place)]
        mean = values.mean().item()
        if len(values) < 2:
            return Value(mean, images=len(values))
        half = 1.96 * values.std().item() / len(values) ** 0.5
        return Value(mean, mean - half, mean + half, len(values))

    return read


@dataclass(frozen=True)
class Measured:
    """A cell that is read out of a measurement of a trained model.

    Args:
        training: of the model.
        measurement: of the paper's protocol, or another.
        read: the record's number.
        source: the model that `transfer` attacks come from.
    """

    training: Training
    measurement: Measurement
    read: Read = accuracy
    source: Training | None = None


@dataclass(frozen=True)
class Timed:
    """A cell of seconds for ten epochs of 50,000 images by a method."""

    arch: str
    method: str


@dataclass(frozen=True)
class Beta:
    """A cell of SPROUT's last beta: the product of two classes'."""

    training: Training
    one: int
    other: int


Source = Measured | Timed | Beta


@dataclass(frozen=True)
class Cell:
    """``published`` is the paper's number, None where it prints none."""

    row: str
    column: str
    source: Source
    published: float | None = None


@dataclass
class Exhibit:
    """A table or figure.

    Args:
        kind, number: as in the paper.
        title: what it shows, and on what.
        scale: that its cells were made for.
        cells: in the order of reading.
        networks: of the paper, that are trained.
        dataset: that they are trained on.
        chosen: what the paper leaves open, and what is done here.
        footnotes: on the paper's numbers.
        draw: makes the figure; None of a table.
    """

    kind: Kind
    number: int
    title: str
    scale: Scale
    cells: list[Cell]
    networks: list[str]
    dataset: DataSet = CIFAR
    chosen: list[str] = field(default_factory=list)
    footnotes: list[str] = field(default_factory=list)
    draw: Callable[[Findings], Figure] | None = None

    @property
    def name(self) -> str:
        """As "Table 7"."""
        return f"{self.kind.capitalize()} {self.number}"

    @property
    def stem(self) -> str:
        """Of its files."""
        return f"{self.kind}_{self.number}"

    def trainings(self) -> list[Training]:
        """All that have to be run, in order."""
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
        """Measurements by name, for each model and the one that attacks come from."""
        found: dict = {}
        for cell in self.cells:
            if isinstance(cell.source, Measured):
                pair = (cell.source.training, cell.source.source)
                found.setdefault(pair, {})[cell.source.measurement.name] = cell.source.measurement
        return found

    def timed(self) -> list[str]:
        """Networks whose training steps are timed."""
        return list(
            dict.fromkeys(cell.source.arch for cell in self.cells if isinstance(cell.source, Timed))
        )

    def rows(self) -> list[str]:
        return list(dict.fromkeys(cell.row for cell in self.cells))

    def columns(self) -> list[str]:
        return list(dict.fromkeys(cell.column for cell in self.cells))


Builder = Callable[[Scale], Exhibit]
EXHIBITS: dict[tuple[Kind, int], Builder] = {}


def register(kind: Kind, number: int) -> Callable[[Builder], Builder]:
    """Enter a function that makes a table or figure for a scale into ``EXHIBITS``."""

    def enter(builder: Builder) -> Builder:
        EXHIBITS[kind, number] = builder
        return builder

    return enter


def of_protocol(scale: Scale, name: str, of: DataSet = CIFAR) -> Measurement:
    """A measurement of the paper's protocol, by its name."""
    return next(one for one in paper(scale.setting(of)) if one.name == name)
