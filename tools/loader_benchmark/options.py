"""Options of ``tools/benchmark_loader.py``; imports no torch, so that ``--help`` is fast."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from sprout_fast.cli import Auto
from sprout_fast.data.loaders.options import LoadingOptions
from sprout_fast.errors import UserError

# Each class is a group of --help, and the docstrings are its help texts.


@dataclass
class RunOptions:
    """What to measure."""

    data: Positional[Path]
    """The data set, as for training: an image folder, a tar of one or WebDataset tars."""
    needs: Auto[float] = None
    """Images per second that the GPUs of this machine train on. Default: no verdict."""
    threads: Auto[str] = None
    """Comma-separated numbers of threads (dali) or processes (torch). Default: 1, 2, 4, ... up to
    the number of cores, at most 16."""
    batch_size: int = 64
    """Images per batch."""
    image_size: int = 224
    """Side of the training crops in pixels."""
    device: Auto[str] = None
    """Where the batches are wanted. Default: cuda if available, else cpu."""


@dataclass
class TimingOptions:
    """How long to measure."""

    group = "timing"

    images: int = 2000
    """Training images to use, drawn evenly from all classes."""
    seconds: float = 3.0
    """Seconds of a turn, after a warm-up."""
    rounds: int = 3
    """Turns of each row and number of threads; the table has their median."""


@dataclass
class Options(LoadingOptions, TimingOptions, RunOptions):
    """Command-line options; None means that the program chooses."""

    def check(self) -> None:
        """Raise ``UserError`` if an option is out of range."""
        low = {"batch_size": 1, "image_size": 1, "images": 1, "rounds": 1, "seconds": 0, "needs": 0}
        for name, least in low.items():
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise UserError(f"{value}: expected a number of at least {least}", option=name)
        self.check_loading()
        self.thread_counts()

    def thread_counts(self) -> list[int]:
        """Return the numbers of threads to measure, ascending.

        Raises:
            UserError: one is not a number from 1 to 999.
        """
        if self.threads is None:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
            cores = min(16, cores or os.cpu_count() or 1)
            return sorted({1 << power for power in range(cores.bit_length())} | {cores})
        counts = {part.strip() for part in self.threads.split(",")}
        if not all(part.isdecimal() and 1 <= int(part) <= 999 for part in counts):
            raise UserError(f"{self.threads}: expected numbers such as 4,8,16", option="threads")
        return sorted(map(int, counts))
