"""Locks that let several processes share an output folder."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process works on ``path``, and keep others waiting meanwhile.

    The lock is a file ``.NAME.lock`` next to it. The system releases it when the process ends,
    however it ends; the file stays, since removing it would let two processes lock two files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that works on {path}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
