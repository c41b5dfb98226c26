"""Progress of a run: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import rich.progress
from rich.console import Console, RenderableType
from rich.text import Text
from torch import Tensor

from sprout_fast.data import Loader
from sprout_fast.training.meter import Reading

# Seconds between two readings of the device: often enough on a terminal, few lines in a log file.
LIVE_INTERVAL = 0.5
PLAIN_INTERVAL = 10.0


class _BarAndNumbers(rich.progress.Progress):
    """A progress bar with the numbers of the last reading on the line below."""

    numbers = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield Text(self.numbers)


class Display:
    """Log lines and the live progress of an epoch, on stdout.

    Args:
        enabled: False in all processes but the first, which prints for all.
        live: whether to show the live line; None means only if stdout is a terminal.
    """

    def __init__(self, enabled: bool = True, live: bool | None = None) -> None:
        self.enabled = enabled
        self.live = enabled and (sys.stdout.isatty() if live is None else live)
        self._console = Console(highlight=False, emoji=False)
        self._progress: _BarAndNumbers | None = None
        self._task: rich.progress.TaskID | None = None
        self._title, self._total = "", 0
        self._shown_at = float("-inf")

    def line(self, text: str, style: str | None = None) -> None:
        """Print a line; on a terminal it wraps at words and has the ``style``."""
        if self.live:
            self._console.print(text, style=style, markup=False)
        elif self.enabled:
            print(text, flush=True)

    def warn(self, text: str) -> None:
        """Print a line that starts with "warning:", in yellow on a terminal."""
        self.line(f"warning: {text}", style="yellow")

    def __enter__(self) -> Display:
        if self.live:
            self._progress = _BarAndNumbers(
                rich.progress.TextColumn("{task.description}"),
                rich.progress.BarColumn(bar_width=20),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TimeRemainingColumn(compact=True),
                console=self._console,
                transient=True,
            )
            self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def start(self, title: str, total: int, done: int = 0) -> None:
        """Start counting ``total`` steps, of which ``done`` are complete."""
        self._title, self._total = title, total
        self._shown_at = float("-inf")  # so that the first step is shown
        if self._progress is not None:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task(title, total=total, completed=done)

    def due(self) -> bool:
        """Return whether it is time to read the device and show a step."""
        interval = LIVE_INTERVAL if self.live else PLAIN_INTERVAL
        return self.enabled and time.monotonic() - self._shown_at >= interval

    def step(self, step: int, text: str) -> None:
        """Show that ``step`` steps are complete, with ``text``."""
        self._shown_at = time.monotonic()
        if self._progress is not None and self._task is not None:
            self._progress.numbers = text
            self._progress.update(self._task, completed=step)
        else:
            self.line(f"{self._title}  step {step}/{self._total}  {text}")

    def watched(self, title: str, batches: Loader) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``batches`` and count them on the live line; a log file gets no lines."""
        if self._progress is not None:
            self.start(title, len(batches))
        for index, batch in enumerate(batches, start=1):
            yield batch
            if self._progress is not None and self.due():
                self.step(index, "")


def describe(now: Reading, mean: Reading, lr: float, mass: float | None) -> str:
    """Return the numbers of a step in one line.

    ``now`` has the averages since the last line, ``mean`` those of the epoch; ``mass`` is the
    expected true-class mass of SPROUT's labels, or None.

    >>> reading = Reading(loss=2.3, accuracy=0.125, images=32, images_per_second=40, data_wait=0.02)
    >>> describe(reading, reading, lr=0.1, mass=0.95)
    'loss 2.300  acc 12.5 %  lr 0.1  40.0 img/s (mean 40.0)  data wait 2 %  true-class mass 0.95'
    """
    text = (
        f"loss {now.loss:.3f}  acc {100 * mean.accuracy:.1f} %  lr {lr:.4g}"
        f"  {now.images_per_second:.1f} img/s (mean {mean.images_per_second:.1f})"
        f"  data wait {100 * mean.data_wait:.0f} %"
    )
    return text if mass is None else f"{text}  true-class mass {mass:.2f}"
