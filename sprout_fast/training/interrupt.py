"""Signals that end a run, deferred until it is in a state that a checkpoint can hold."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Exit status after Ctrl-C, as shells have it; and of a run that its host stopped, sysexits.h's
# EX_TEMPFAIL: rerun it later.
CTRL_C, PREEMPTED = 130, 75
# torchrun passes on the Ctrl-C that its terminal has sent to all processes.
_SAME_PRESS = 1.0  # seconds


class Interrupt:
    """SIGINT (Ctrl-C), SIGTERM and SIGUSR1, which schedulers send before they stop a job.

    While ``held``, a signal is only noted in ``signal``, and a later Ctrl-C stops at once.
    Otherwise, when nothing would be lost, each stops at once, by a KeyboardInterrupt with the exit
    status. Outside the
    main thread, where Python delivers no signals, nothing is noted.

    Attributes:
        signal: number of the signal that was noted, or 0.
        held: whether signals are only noted.
    """

    def __init__(self) -> None:
        self.signal, self.held = 0, False
        self._installed, self._noted_at = False, 0.0
        # torchrun dies of signals that it does not handle, and leaves its processes alive.
        self._launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None

    def noted(self) -> int:
        """Return ``signal``, which is SIGTERM too once torchrun has died."""
        if not self.signal and self._launcher not in (None, os.getppid()):
            self.signal = signal.SIGTERM
        return self.signal

    @property
    def status(self) -> int:
        """The exit status after the signal: 130 after Ctrl-C, else 75."""
        return CTRL_C if self.signal in (0, signal.SIGINT) else PREEMPTED

    @contextmanager
    def installed(self, held: bool = False) -> Iterator[Interrupt]:
        """Handle signals inside, with ``held``; may be nested."""
        before, self.held = self.held, held
        handlers = {}
        if not self._installed and threading.current_thread() is threading.main_thread():
            names = ("SIGINT", "SIGTERM", "SIGUSR1")
            numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
            handlers = {number: signal.signal(number, self._on_signal) for number in numbers}
            self._installed = True
        try:
            yield self
        finally:
            self.held = before
            for number, handler in handlers.items():
                signal.signal(number, handler)
                self._installed = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        first, now = not self.signal, time.monotonic()
        again = not first and number == signal.SIGINT and now - self._noted_at >= _SAME_PRESS
        if first:
            self.signal, self._noted_at = number, now
        if again or not self.held:
            raise KeyboardInterrupt(self.status)
        if first and number == signal.SIGINT and sys.stderr.isatty():
            # os.write, since a handler may have interrupted a print
            os.write(2, b"\nfinishing this step and saving; press Ctrl-C again to stop now\n")
