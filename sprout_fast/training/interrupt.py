"""Ctrl-C, deferred until the run is in a state that a checkpoint can hold."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType


class Interrupt:
    """Context manager in which a first Ctrl-C only sets ``requested`` and a second one stops.

    While ``held`` is false (during validation, when nothing would be lost) the first one stops too.
    Outside the main thread, where Python delivers no signals, it has no effect.
    """

    def __init__(self) -> None:
        self.requested, self.held, self._before = False, True, None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        stop = self.requested or not self.held
        self.requested = True
        if stop:
            raise KeyboardInterrupt
        if sys.stderr.isatty():  # os.write, since a handler may have interrupted a print
            os.write(2, b"\nfinishing this step and saving; press Ctrl-C again to stop now\n")
