"""Runs measurements batch by batch; each batch's results are on disk before the next one starts."""

from __future__ import annotations

import json
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sprout_fast._version import __version__
from sprout_fast.attacks.base import full_float32
from sprout_fast.data.subsets import spread_order
from sprout_fast.evaluation.accuracy import Accuracy
from sprout_fast.evaluation.measurements import Batch, Measurement
from sprout_fast.evaluation.subject import Subject, fingerprint
from sprout_fast.files import atomic_write
from sprout_fast.models.mode import evaluation_mode
from sprout_fast.models.torch_file import read_torch_file


@dataclass
class Record:
    """Results of one measurement.

    Attributes:
        parameters: the measurement's parameters, as plain values.
        total: N, the number of images in the evaluation.
        rows: int64 [R], indices of the images that were measured.
        columns: tensors of R rows, by name.
        gallery: int64 [G], indices of the measured images whose attacked versions are kept.
        adversarial: [G,C,H,W], those versions; None if the measurement is not an attack.
        unavailable: why the measurement was not made, or None. If set, there are no rows.
    """

    name: str
    parameters: dict[str, Any]
    total: int
    rows: Tensor
    columns: dict[str, Tensor] = field(default_factory=dict)
    gallery: Tensor = field(default_factory=lambda: torch.arange(0))
    adversarial: Tensor | None = None
    seconds: float = 0.0
    unavailable: str | None = None

    def column(self, name: str, missing: float = float("nan")) -> Tensor:
        """Return a column for all N images, float64, with ``missing`` for unmeasured images."""
        found = self.columns[name].double()
        full = torch.full((self.total, *found.shape[1:]), missing, dtype=torch.float64)
        full[self.rows] = found
        return full


@dataclass
class AccuracyRecord(Record):
    """Results of a measurement that classifies images, e.g. of an attack.

    Attributes:
        misclassified: bool [N], images that are misclassified without an attack, under the attacks
            before this one in its cascade, or in this measurement.
    """

    misclassified: Tensor = field(kw_only=True)

    @property
    def accuracy(self) -> Accuracy:
        """Accuracy on all N images."""
        return Accuracy(int((~self.misclassified).sum()), self.total, self.name)


ProgressCallback = Callable[[Record, int, int], None]
Columns = dict[str, Tensor]


class PrintProgress:
    """A progress callback that prints one line per measurement.

    On a terminal, the line of the running measurement counts its images.
    """

    def __init__(self) -> None:
        self._shown = time.monotonic()

    def __call__(self, record: Record, done: int, total: int) -> None:
        terminal = sys.stdout.isatty()
        if done < total:
            if terminal and time.monotonic() - self._shown > 0.2:
                self._shown = time.monotonic()
                print(f"\r\x1b[K{record.name}: {done} of {total}", end="", flush=True)
            return
        if record.unavailable is not None:
            text = f"not measured: {record.unavailable}"
        else:
            result = record.accuracy.range if isinstance(record, AccuracyRecord) else "done"
            text = f"{result}  {record.seconds:.1f} s"
        start = "\r\x1b[K" if terminal else ""
        print(f"{start}{record.name:<28} {text}", flush=True)


class Recorder:
    """Runs measurements of one subject on one set of images, and keeps their records.

    Images, labels and batch size are those of :func:`sprout_fast.evaluate`. If there are several
    processes, each measures every W-th batch, and all receive the columns of all images.

    Args:
        subject: what is measured. Its model is in eval mode during a measurement.
        seed: seed of all random numbers. A batch's numbers depend on it, on the measurement's name
            and on the batch's position.
        cache_dir: folder in which the results of each batch are saved, so that an interrupted run
            resumes from there; None keeps them in memory only.
        gallery: number of images whose attacked versions are kept. These are the first ones that
            are classified correctly without an attack, so that no attack selects them.
        progress: called with (record, images done, images in total) after each batch, and once
            when the record is complete.
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
        progress: ProgressCallback | None = None,
    ) -> None:
        self.subject, self.images, self.labels = subject, images, labels
        self._batch_size, self._seed, self._gallery = batch_size, seed, gallery
        self._cache_dir, self._progress = cache_dir, progress or (lambda record, done, total: None)
        # Data sets list one class after the other. A measurement of a few images is one of the
        # first, and Mixup's partners come from the same batch.
        self._order = torch.from_numpy(spread_order(labels.cpu().numpy(), seed))
        self.records: dict[str, Record] = {}
        distributed = dist.is_available() and dist.is_initialized()
        self._rank = dist.get_rank() if distributed else 0
        self._ranks = dist.get_world_size() if distributed else 1
        self._identity = {
            "fingerprint": fingerprint(subject, images, labels),
            "version": __version__,
            "format": 5,  # of the cache files
            "batch_size": batch_size,
            "seed": seed,
        }
        if cache_dir is not None:
            cache_dir.mkdir(parents=True, exist_ok=True)
            self._probe = self._probe_logits()

    def run(self, measurements: Iterable[Measurement]) -> None:
        """Run the measurements that have no record yet.

        Raises:
            ValueError: two different measurements have the same name.
        """
        for measurement in measurements:
            known = self.records.get(measurement.name)
            if known is None:
                record = self.records[measurement.name] = self._measure(measurement)
                self._progress(record, len(record.rows), len(record.rows))
            elif known.parameters != measurement.parameters():
                raise ValueError(f"two different measurements are called {measurement.name!r}")

    def _measure(self, measurement: Measurement) -> Record:
        total = len(self.labels)
        record = Record(measurement.name, measurement.parameters(), total, torch.arange(0))
        record.unavailable = measurement.unavailable(self.subject)
        if record.unavailable is not None:
            return record
        before = ("clean", *measurement.after) if measurement.only_correct else measurement.after
        misclassified = torch.zeros(total, dtype=torch.bool)
        for name in before:
            misclassified |= self._accuracy_record(name).misclassified
        rows = self._order[~misclassified[self._order]]
        if measurement.limit is not None:
            rows = rows[: measurement.limit]
        columns = self._measure_rows(measurement, rows, record)
        rows = rows.sort().values
        record.rows, record.columns = rows, columns
        record.seconds = columns.pop("seconds").sum().item() if columns else 0.0
        columns.pop("rows", None)
        if "adversarial" in columns:
            record.adversarial = columns.pop("adversarial")
            record.gallery = rows[self._in_gallery(rows)]
        if "misclassified" in columns:
            misclassified[rows] = columns["misclassified"]
        elif len(rows) > 0:
            return record
        return AccuracyRecord(**vars(record), misclassified=misclassified)

    def _measure_rows(self, measurement: Measurement, rows: Tensor, record: Record) -> Columns:
        """Measure the images ``rows`` in batches, after those that the cache holds."""
        path = self._path(measurement)
        firsts = range(0, len(rows), self._batch_size)[self._rank :: self._ranks]
        batches = [rows[first : first + self._batch_size] for first in firsts]
        columns = self._read(path, measurement, torch.cat([rows[:0], *batches]))
        done = len(columns["rows"]) if columns else 0
        finished = -(-done // self._batch_size)
        for first, part_rows in zip(firsts[finished:], batches[finished:], strict=True):
            start = time.perf_counter()
            part = self._measure_batch(measurement, part_rows, first)
            seconds = torch.tensor([time.perf_counter() - start], dtype=torch.float64)
            part |= {"rows": part_rows, "seconds": seconds}
            # One tensor per column: writing many small ones after each batch is slow.
            columns = {
                name: torch.cat([columns[name], new]) if columns else new
                for name, new in part.items()
            }
            if path is not None:
                content = {"key": self._key(measurement), "probe": self._probe, "columns": columns}
                with atomic_write(path) as temporary:
                    torch.save(content, temporary)
            done = first + len(part_rows)
            if done < len(rows):
                self._progress(record, done, len(rows))
        return self._gathered(columns)

    def _gathered(self, columns: Columns) -> Columns:
        """Return the columns of all processes, with the rows in ascending order."""
        parts: list[Columns] = [columns] * self._ranks
        if self._ranks > 1:
            dist.all_gather_object(parts, columns)
        parts = [part for part in parts if part]
        if not parts:
            return {}
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        order = joined["rows"].argsort()
        orders: dict[str, Any] = {"seconds": slice(None)}
        if "adversarial" in joined:
            orders["adversarial"] = joined["rows"][self._in_gallery(joined["rows"])].argsort()
        return {name: column[orders.get(name, order)] for name, column in joined.items()}

    def _accuracy_record(self, name: str) -> AccuracyRecord:
        record = self.records[name]
        if not isinstance(record, AccuracyRecord):
            raise ValueError(f"{name!r} does not classify images")
        return record

    def _probe_logits(self) -> Tensor:
        """Return the logits of the first images.

        The fingerprint covers weights, but neither code nor plain numbers: a changed ``factor`` in
        ``logits / self.factor`` is visible here only.
        """
        device = self.subject.device
        cuda = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), evaluation_mode(self.subject.model):
            torch.manual_seed(0)  # for models that draw random numbers
            with full_float32():
                return self.subject.logits(self.subject.prepared(self.images[:4])).cpu()

    def _measure_batch(self, measurement: Measurement, rows: Tensor, first: int) -> Columns:
        # Distinct for each measurement, batch and seed, and reproducible.
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
        right = (~self._accuracy_record("clean").misclassified).nonzero().flatten()
        return torch.isin(rows, right[: self._gallery])

    def _path(self, measurement: Measurement) -> Path | None:
        if self._cache_dir is None:
            return None
        # Named after everything it depends on, so that other options have other files.
        slug = re.sub(r"[^a-z0-9]+", "-", measurement.name.lower()).strip("-")
        key = zlib.crc32(self._key(measurement).encode())
        share = f"-{self._rank}of{self._ranks}" if self._ranks > 1 else ""
        return self._cache_dir / f"{slug}-{key:08x}{share}.pt"

    def _key(self, measurement: Measurement) -> str:
        return json.dumps(self._identity | measurement.parameters(), sort_keys=True)

    def _read(self, path: Path | None, measurement: Measurement, rows: Tensor) -> Columns:
        """Return the cached columns, which cover the first of ``rows``, or {} if none are valid."""
        if path is None or not path.exists():
            return {}
        content = read_torch_file(path)
        if content["key"] != self._key(measurement) or not _close(content["probe"], self._probe):
            return {}
        # A cascade's rows depend on other measurements, which may have changed.
        known = content["columns"]["rows"]
        return content["columns"] if torch.equal(known, rows[: len(known)]) else {}


def _close(logits: Tensor, others: Tensor) -> bool:
    """Return whether logits are equal up to the order of sums, e.g. with more threads."""
    if logits.shape != others.shape:
        return False
    scale = others.nan_to_num(0, 0, 0).abs().max().item()
    return torch.allclose(logits, others, rtol=1e-3, atol=1e-4 * scale, equal_nan=True)
