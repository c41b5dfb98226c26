"""Measuring batch by batch, with every batch's answer on disk before the next begins."""

from __future__ import annotations

import json
import os
import re
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sprout_fast._version import __version__
from sprout_fast.attacks.base import full_float32
from sprout_fast.evaluation.accuracy import Accuracy
from sprout_fast.evaluation.measurements import Batch, Measurement
from sprout_fast.evaluation.subject import Subject, fingerprint
from sprout_fast.models.mode import evaluation_mode
from sprout_fast.models.torch_file import read_torch_file


@dataclass
class Record:
    """What a measurement found.

    Attributes:
        parameters: of the measurement, plain values.
        total: N, the images of the evaluation.
        rows: int64 [R], which of them were measured.
        columns: by name, tensors of R rows.
        gallery: int64 [G], those of the rows whose attacked images are kept.
        adversarial: [G,C,H,W], what an attack made of them; None where it is no attack.
        misclassified: bool [N], the images that the model gets wrong by itself, under the measurements
            that this one comes after, or under this one; None where it tells nothing of that.
        seconds: that it took.
        unavailable: why it was not measured; then there are no rows and columns.
    """

    name: str
    parameters: dict[str, Any]
    total: int
    rows: Tensor
    columns: dict[str, Tensor] = field(default_factory=dict)
    gallery: Tensor = field(default_factory=lambda: torch.arange(0))
    adversarial: Tensor | None = None
    misclassified: Tensor | None = None
    seconds: float = 0.0
    unavailable: str | None = None

    @property
    def accuracy(self) -> Accuracy | None:
        """Of all N images; None where `misclassified` is."""
        if self.misclassified is None:
            return None
        return Accuracy(int((~self.misclassified).sum()), self.total, self.name)

    def column(self, name: str, missing: float = float("nan")) -> Tensor:
        """A column of numbers for all N images, ``missing`` where an image was not measured."""
        found = self.columns[name].double()
        full = torch.full((self.total, *found.shape[1:]), missing, dtype=torch.float64)
        full[self.rows] = found
        return full


class Recorder:
    """Runs measurements of one subject on one set of images, and remembers.

    Args:
        subject: what is measured; put into eval mode for the time of a measurement.
        images: uint8 or floating in [0,1], [N,C,H,W].
        labels: int64 [N].
        batch_size: images a batch.
        seed: of everything drawn; a batch's numbers depend on it, the measurement and the batch.
        cache_dir: where the answers are kept, so that the same call goes on where it was stopped;
            None keeps them in memory alone.
        gallery: so many of the images keep their attacked versions: the first that the model gets
            right by itself, so that they are not chosen by what an attack does to them.
        progress: called with (record, images done, images in all) after each batch, and once more when
            the record is complete, with as many done as there are in all.
    """

    def __init__(
        self,
        subject: Subject,
        images: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        seed: int = 0,
        cache_dir: Path | None = None,
        gallery: int = 8,
        progress: Callable[[Record, int, int], None] | None = None,
    ) -> None:
        self.subject, self.images, self.labels = subject, images, labels
        self._batch_size, self._seed, self._gallery = batch_size, seed, gallery
        self._progress = progress
        self._cache_dir = cache_dir
        self.records: dict[str, Record] = {}
        self._identity = {
            "fingerprint": fingerprint(subject, images, labels),
            "version": __version__,
            "format": 2,  # of the files
            "batch_size": batch_size,
            "seed": seed,
        }
        if cache_dir is not None:
            cache_dir.mkdir(parents=True, exist_ok=True)
            self._answers = self._few_answers()

    def run(self, measurements: Iterable[Measurement]) -> None:
        """Measure all that is not yet known."""
        for measurement in measurements:
            known = self.records.get(measurement.name)
            if known is None:
                record = self.records[measurement.name] = self._measure(measurement)
                self._tell(record, len(record.rows), len(record.rows))
            elif known.parameters != measurement.parameters():
                raise ValueError(f"two different measurements are called {measurement.name!r}")

    def _measure(self, measurement: Measurement) -> Record:
        total = len(self.labels)
        record = Record(measurement.name, measurement.parameters(), total, torch.arange(0))
        record.unavailable = measurement.unavailable(self.subject)
        if record.unavailable is not None:
            return record
        before = measurement.after if measurement.of_wrong else ("clean", *measurement.after)
        misclassified = torch.zeros(total, dtype=torch.bool)
        for name in before:
            misclassified |= self.records[name].misclassified
        rows = (~misclassified).nonzero().flatten()
        if measurement.limit is not None:
            rows = rows[: measurement.limit]
        path = self._path(measurement)
        columns = self._read(path, measurement, rows)
        done = len(columns["rows"]) if columns else 0
        for first in range(done, len(rows), self._batch_size):
            part_rows = rows[first : first + self._batch_size]
            start = time.perf_counter()
            part = self._measure_batch(measurement, part_rows, first)
            part |= {"rows": part_rows, "seconds": _seconds_since(start)}
            # One tensor a column: a file of many small ones is slow to write after every batch.
            columns = {
                name: torch.cat([columns[name], new]) if columns else new
                for name, new in part.items()
            }
            if path is not None:
                self._write(path, measurement, columns)
            done = first + len(part_rows)
            if done < len(rows):
                self._tell(record, done, len(rows))
        record.rows = rows
        record.seconds = columns.pop("seconds").sum().item() if columns else 0.0
        columns.pop("rows", None)
        record.columns = columns
        if "adversarial" in record.columns:
            record.adversarial = record.columns.pop("adversarial")
            record.gallery = rows[self._in_gallery(rows)]
        if "misclassified" in record.columns:
            misclassified[rows] = record.columns["misclassified"]
        if "misclassified" in record.columns or len(rows) == 0:
            record.misclassified = misclassified
        return record

    def _few_answers(self) -> Tensor:
        """Logits of the first images. The fingerprint sees weights, not code or plain numbers: of
        ``logits / self.factor`` a changed factor shows here alone."""
        device = self.subject.device
        cuda = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), evaluation_mode(self.subject.model):
            torch.manual_seed(0)  # for models that draw
            with full_float32():
                return self.subject.logits(self.subject.prepared(self.images[:4])).cpu()

    def _tell(self, record: Record, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(record, done, total)

    def _measure_batch(
        self, measurement: Measurement, rows: Tensor, first: int
    ) -> dict[str, Tensor]:
        # Apart for every measurement, batch and seed, and the same when it is measured again.
        seed = zlib.crc32(f"{self._seed}/{measurement.name}/{first}".encode())
        images = self.subject.prepared(self.images[rows])
        batch = Batch(images, self.labels[rows].to(images.device), seed)
        with evaluation_mode(self.subject.model), full_float32():
            columns = measurement.measure(self.subject, batch)
        columns = {name: column.detach().cpu() for name, column in columns.items()}
        if "adversarial" in columns:
            columns["adversarial"] = columns["adversarial"][self._in_gallery(rows)]
        return columns

    def _in_gallery(self, rows: Tensor) -> Tensor:
        right = (~self.records["clean"].misclassified).nonzero().flatten()
        return torch.isin(rows, right[: self._gallery])

    def _path(self, measurement: Measurement) -> Path | None:
        if self._cache_dir is None:
            return None
        # By all that it depends on: what was measured with other options stays beside it.
        slug = re.sub(r"[^a-z0-9]+", "-", measurement.name.lower()).strip("-")
        return self._cache_dir / f"{slug}-{zlib.crc32(self._key(measurement).encode()):08x}.pt"

    def _key(self, measurement: Measurement) -> str:
        return json.dumps(self._identity | measurement.parameters(), sort_keys=True)

    def _read(self, path: Path | None, measurement: Measurement, rows: Tensor) -> dict[str, Tensor]:
        """The columns of what was measured before, of the first of ``rows``; {} where there is
        nothing that still holds."""
        if path is None or not path.exists():
            return {}
        content = read_torch_file(path)
        if content["key"] != self._key(measurement):
            return {}
        if not _alike(content["answers"], self._answers):
            return {}
        # The rows of a cascade are what another measurement left, which may have been made anew.
        known = content["columns"]["rows"]
        return content["columns"] if torch.equal(known, rows[: len(known)]) else {}

    def _write(self, path: Path, measurement: Measurement, columns: dict[str, Tensor]) -> None:
        # A reader, or a run that goes on after this one was killed, sees the old file or the new.
        beside = path.with_suffix(".tmp")
        content = {"key": self._key(measurement), "answers": self._answers, "columns": columns}
        torch.save(content, beside)
        os.replace(beside, path)


def _seconds_since(start: float) -> Tensor:
    return torch.tensor([time.perf_counter() - start], dtype=torch.float64)


def _alike(logits: Tensor, others: Tensor) -> bool:
    """But for what another order of sums changes, as another number of threads brings about."""
    if logits.shape != others.shape:
        return False
    scale = others.nan_to_num(0, 0, 0).abs().max().item()
    return torch.allclose(logits, others, rtol=1e-3, atol=1e-4 * scale, equal_nan=True)
