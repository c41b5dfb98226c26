"""The end of a job of several processes: when one fails, all end, and the first says why.

The first process to fail claims that in the store through which the processes found each other,
prints the cause and exits; the others see the claim, print nothing more and exit too. A thread in
each process looks for the claim, and watches the process with the next number, which may be killed
or stopped without a word. None calls ``destroy_process_group``: NCCL may wait in it for a process
that is gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]  (is documented)

_INTERVAL = 1.0  # seconds between two looks at the other processes
_PATIENCE = 10.0  # seconds for the store or for another process, which a busy machine delays
_ENDING = threading.Lock()  # held by the thread that ends this process, and never released
_LOST = threading.Event()  # this process cannot reach another one: the watch names a silent one
_CONNECTION: list[TCPStore] = []  # to the job's store: at most one


def end_job(
    message: str, status: int, error: BaseException | None = None, *, gone: int = 0
) -> NoReturn:
    """End this process, and through it the job: print ``message`` and exit with ``status``.

    Only the first process of a job to fail prints, so a mistake that all processes make is reported
    once, and one that a single process makes is reported too, whichever process it is.

    Args:
        message: why the job ends.
        status: the exit status.
        error: the exception that ended this process. If it only says that another process is gone,
            those that watch that one get some seconds to name it.
        gone: how many other processes are known to be gone.
    """
    if threading.current_thread() is threading.main_thread():
        # torchrun stops all processes as soon as one has failed, before this one has printed why.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    if error is not None and lost_connection(error):
        _LOST.set()
        time.sleep(6 * _INTERVAL)
    _ENDING.acquire()
    # The store does not answer if the process that keeps it is stopped.
    limit = threading.Timer(2 * _PATIENCE, _print_and_exit, (message, status))
    limit.daemon = True
    limit.start()
    store = None
    with suppress(dist.DistError):
        store = _store()
        if store is not None and store.add(_key("failed"), 1) > 1:
            _follow(store, status)
        if store is not None and dist.is_initialized():
            _await_silence(store, dist.get_world_size() - 1 - gone)
    _print_and_exit(message, status, store)


def lost_connection(error: BaseException) -> bool:
    """Return whether ``error`` only says that another process is gone or does not answer."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "/gloo/" in str(error)
    )


class Watch(threading.Thread):
    """Ends this process once another one has failed, and the job once the next one is gone.

    A process shows in the store that it is alive. Whether the next one was killed is seen at once
    on the same machine; on another one, and if it was stopped, after ``timeout`` seconds without a
    sign of it. They are counted in looks, so a job that was suspended as a whole continues.

    Args:
        rank, size: this process and the number of all, at least 2.
        timeout: seconds.
    """

    def __init__(self, rank: int, size: int, timeout: float) -> None:
        super().__init__(name="job watch", daemon=True)
        self._rank, self._next, self._size = rank, (rank + 1) % size, size
        self._timeout, self._stopped = timeout, threading.Event()

    def stop(self) -> None:
        """End the thread, before this process leaves the job."""
        self._stopped.set()
        _CONNECTION.clear()

    def run(self) -> None:
        try:
            self._look(_store(6 * _PATIENCE))  # no hurry: the processes have just met
        except dist.DistError:
            if not self._stopped.wait(_INTERVAL):  # not because the job is complete
                self._end_without_store()

    def _look(self, store: TCPStore | None) -> None:
        looks, silent, last, alive = 0, 0, b"", False
        own, other = _key(f"alive/{self._rank}"), _key(f"alive/{self._next}")
        while store is not None:
            looks += 1
            store.set(own, f"{looks} {os.getpid()} {_machine()}")
            if self._stopped.wait(_INTERVAL):
                return
            if store.check([_key("failed")]):
                _ENDING.acquire()
                _follow(store, 1)
            now = store.get(other) if store.check([other]) else b""
            silent = silent + 1 if now == last else 0
            # The first sign may be that of another process, before torchrun restarted the job.
            alive, last = alive or (last != b"" and now != last), now
            _, pid, machine = (now.decode() or "0 0 ?").split()
            near = alive and machine == _machine()
            if near and _is_dead(int(pid)):
                self._end(f"process {self._next} of {self._size} (pid {pid}) was killed", gone=1)
            if last and silent >= (3 if _LOST.is_set() else self._timeout / _INTERVAL):
                if near:
                    with suppress(OSError):
                        os.kill(int(pid), signal.SIGKILL)
                self._end(
                    f"process {self._next} of {self._size} (pid {pid}) does not answer since"
                    f" {silent * _INTERVAL:g} seconds",
                    gone=1,
                )

    def _end_without_store(self) -> NoReturn:
        # The process that kept the store is gone. One process of each machine says so.
        _ENDING.acquire()
        keeper = "torchrun" if _torchrun_keeps_store() else "process 0"
        first = os.environ["LOCAL_RANK"] == "0" or (self._rank == 1 and keeper == "process 0")
        if first:
            _print_and_exit(_line(f"lost the connection to {keeper}"), 1)
        os._exit(1)

    def _end(self, reason: str, gone: int = 0) -> None:
        # Not if the job has ended meanwhile, or if this process is about to see why it ends.
        if not self._stopped.wait(_INTERVAL):
            end_job(_line(reason), 1, gone=gone)


def _line(reason: str) -> str:
    return f"{os.path.basename(sys.argv[0])}: error: {reason}"


def _key(name: str) -> str:
    # torchrun's own store outlives a restart. Other stores begin anew, and torchrun counts restarts
    # for each machine by itself.
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", 0) if _torchrun_keeps_store() else 0
    return f"sprout_fast/{restarts}/{name}"


def _torchrun_keeps_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _store(patience: float = _PATIENCE) -> TCPStore | None:
    """Return the connection to the job's store; None if there is no store yet or no job."""
    if not _CONNECTION and (_torchrun_keeps_store() or dist.is_initialized()):
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        limit = timedelta(seconds=patience)
        _CONNECTION.append(TCPStore(host, port, is_master=False, timeout=limit))
    return _CONNECTION[0] if _CONNECTION else None


def _await_silence(store: TCPStore, others: int) -> None:
    """Wait until ``others`` processes follow, so that none prints after the cause."""
    until = time.monotonic() + _PATIENCE
    while store.add(_key("silent"), 0) < others and time.monotonic() < until:
        time.sleep(0.1)


def _follow(store: TCPStore, status: int) -> NoReturn:
    """Exit after another process has printed why; until then print nothing."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    with suppress(dist.DistError):  # that process has exited, and the store with it
        store.add(_key("silent"), 1)
        store.wait([_key("told")], timedelta(seconds=2 * _PATIENCE))
    time.sleep(_INTERVAL)  # torchrun names the process whose exit it sees first as the cause
    os._exit(status)


def _print_and_exit(message: str, status: int, store: TCPStore | None = None) -> NoReturn:
    with suppress(OSError, ValueError):  # closed
        show_cursor = "\x1b[?25h\n" if sys.stdout.isatty() else ""  # which a progress bar hides
        print(end=show_cursor, flush=True)
        print(message, file=sys.stderr, flush=True)
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):  # torchrun's report then ends with it
        text = {"message": message, "extraInfo": {"timestamp": str(int(time.time()))}}
        with suppress(OSError):
            Path(file).write_text(json.dumps({"message": text}), encoding="utf-8")
    if store is not None:
        with suppress(dist.DistError):
            store.set(_key("told"), "")
    os._exit(status)


def _machine() -> str:
    """Return what processes have in common that see each other by pid; Linux only."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"unknown/{os.getpid()}"


def _is_dead(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"  # a zombie, which nobody has waited for
