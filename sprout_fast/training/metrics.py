"""A run's numbers on disk: metrics.csv, one row per epoch, and TensorBoard events."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from sprout_fast.files import atomic_write

COLUMNS = (
    "epoch",
    "step",
    "train_loss",
    "train_acc",
    "val_top1",
    "val_top5",
    "val_loss",
    "lr",
    "images_per_s",
    "data_wait",
    "seconds",
)


class MetricsLog:
    """Writer of ``metrics.csv`` and TensorBoard events.

    Accuracies, data wait and true-class mass are fractions in [0,1]; losses are in nats.

    Args:
        out: the run's folder.
        statistics: names of the method's own columns, which follow the common ones.
        epoch, step: where the run resumes. Rows and events after that, written between the last
            checkpoint and an interruption, are dropped.
    """

    def __init__(
        self, out: Path, statistics: Iterable[str] = (), epoch: int = 0, step: int = 0
    ) -> None:
        self._path = out / "metrics.csv"
        self._columns = (*COLUMNS, *statistics)
        kept = [row for row in self._read() if int(row["epoch"]) <= epoch]
        with atomic_write(self._path) as temporary, open(temporary, "w", newline="") as file:
            # A run resumed with other options of its method may have other columns.
            writer = csv.DictWriter(file, self._columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(kept)
        self._events = SummaryWriter(str(out), purge_step=step + 1 if step else None)

    def _read(self) -> list[dict[str, str]]:
        if not self._path.exists():
            return []
        with open(self._path, newline="") as file:
            return list(csv.DictReader(file))

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of optimizer step ``step`` to TensorBoard."""
        for name, value in values.items():
            self._events.add_scalar(f"train/{name}", value, step)

    def epoch(self, values: Mapping[str, float]) -> None:
        """Append a row to metrics.csv and write it to TensorBoard.

        Args:
            values: by column, ``COLUMNS`` and the method's own.
        """
        with open(self._path, "a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(
                {name: _rounded(value) for name, value in values.items()}
            )
        for name, value in values.items():
            if name not in ("epoch", "step"):
                self._events.add_scalar(f"epoch/{name}", value, int(values["step"]))
        self._events.flush()

    def histogram(self, step: int, name: str, values: Tensor) -> None:
        """Write the distribution of ``values`` to TensorBoard."""
        self._events.add_histogram(name, values, step)

    def close(self) -> None:
        """Close the event file."""
        self._events.close()


def _rounded(value: float) -> float | str:
    return f"{value:.6g}" if isinstance(value, float) else value
