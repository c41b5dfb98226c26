"""The measured value of each cell of a table or figure."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from training_benchmark.step_times import quartiles

from reproduction.exhibits.base import Beta, Cell, Exhibit, Measured, Timed, Value
from reproduction.store import Store
from reproduction.training import Training
from sprout_fast.errors import UserError
from sprout_fast.evaluation.recorder import Record


class Findings:
    """Runs whatever an exhibit still needs, then returns the values of its cells.

    Args:
        exhibit: the table or figure.
        store: keeps finished work.
        progress: called with a line of text before each training, model and timing.
    """

    def __init__(self, exhibit: Exhibit, store: Store, progress: Callable[[str], object]) -> None:
        self.exhibit, self._store = exhibit, store
        trainings = exhibit.trainings()
        for number, training in enumerate(trainings, start=1):
            if store.epochs_done(training) < training["epochs"]:
                progress(f"\ntraining {number} of {len(trainings)}: {training.label}")
                store.train(training)
        self._records: dict[tuple[Training, Training | None], dict[str, Record]] = {}
        for (training, source), measurements in exhibit.measured().items():
            images = store.images(training.dataset)
            progress(f"\n{training.label}, on {len(images.labels):,} test images:")
            records = store.measure(training, source, list(measurements.values()))
            self._records[training, source] = records
        self._seconds: dict[str, dict[str, list[float]]] = {}
        for arch in exhibit.timed():
            progress(f"\ntiming training steps of {arch}, about {store.timing_budget:.0f} s")
            self._seconds[arch] = store.seconds(arch)

    def record(self, source: Measured) -> Record:
        """Return the record that a cell is read from.

        Raises:
            UserError: the measurement was not possible.
        """
        record = self._records[source.training, source.source][source.measurement.name]
        if record.unavailable is not None:
            raise UserError(f"{self.exhibit.name}: {record.name}: {record.unavailable}")
        return record

    def beta(self, training: Training) -> tuple[list[str], torch.Tensor]:
        """Return the class names and SPROUT's final beta."""
        return self._store.beta(training)

    def value(self, cell: Cell) -> Value:
        """Return the measured value of a cell.

        Raises:
            UserError: the measurement was not possible, or the data set has too few classes.
        """
        source = cell.source
        if isinstance(source, Measured):
            return source.read(self.record(source))
        if isinstance(source, Timed):
            seconds = self._seconds[source.arch][source.method]
            low, high = quartiles(seconds) if len(seconds) > 1 else (None, None)
            return Value(statistics.median(seconds), low, high, rounds=len(seconds))
        assert isinstance(source, Beta)
        names, beta = self.beta(source.training)
        if max(source.one, source.other) >= len(beta):
            raise UserError(
                f"{self.exhibit.name}: expected CIFAR-10's 10 classes, got {len(names)}"
            )
        return Value((beta[source.one] * beta[source.other]).item())
