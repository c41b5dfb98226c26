"""A run's numbers on disk: metrics.csv, a row an epoch, and TensorBoard events."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

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
    "true_class_mass",
    "beta_min",
    "beta_mean",
    "beta_max",
    "seconds",
)


class MetricsLog:
    """Writes ``metrics.csv`` and event files into a run's folder.

    Accuracies, data wait and mass are shares in [0,1]; losses in nats; a cell is empty where a
    method has no such number.

    Args:
        out: the folder.
        epoch, step: where the run goes on; later rows and events, of a run that was broken off
            after its last checkpoint, are dropped.
    """

    def __init__(self, out: Path, epoch: int = 0, step: int = 0) -> None:
        self._path = out / "metrics.csv"
        kept = [row for row in self._read() if int(row["epoch"]) <= epoch]
        with open(self._path, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(kept)
        self._events = SummaryWriter(str(out), purge_step=step + 1 if step else None)

    def _read(self) -> list[dict[str, str]]:
        if not self._path.exists():
            return []
        with open(self._path, newline="") as file:
            return list(csv.DictReader(file))

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step, to TensorBoard."""
        for name, value in values.items():
            self._events.add_scalar(f"train/{name}", value, step)

    def epoch(self, values: Mapping[str, float]) -> None:
        """A row of metrics.csv; keys out of COLUMNS."""
        with open(self._path, "a", newline="") as file:
            csv.DictWriter(file, COLUMNS).writerow({k: _rounded(v) for k, v in values.items()})
        for name, value in values.items():
            if name not in ("epoch", "step"):
                self._events.add_scalar(f"epoch/{name}", value, int(values["step"]))
        self._events.flush()

    def close(self) -> None:
        self._events.close()


def _rounded(value: float) -> float | str:
    return f"{value:.6g}" if isinstance(value, float) else value
