"""Progress of an evaluation on stdout."""

from __future__ import annotations

import sys
import time

from sprout_fast.evaluation.recorder import AccuracyRecord, Record


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
