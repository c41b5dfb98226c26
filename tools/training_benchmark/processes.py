"""Start the program once per device, as torchrun does, on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from sprout_fast.distributed import held_port
from sprout_fast.errors import UserError


def starts_processes(world: int | None) -> bool:
    """Return whether this process has to start ``world`` others, rather than be one of them.

    Raises:
        UserError: it is one of another number of processes.
    """
    size = os.environ.get("WORLD_SIZE")
    if size is not None and world is not None and size != str(world):
        raise UserError(f"{world}: the environment variable WORLD_SIZE is {size}", option="world")
    return size is None and world is not None and world > 1


def run_processes(world: int, argv: Sequence[str]) -> int:
    """Run this program with ``argv`` in ``world`` processes, and return the exit status of all."""
    job = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    # As many threads together as one process would use.
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // world))}
    with held_port() as port:
        job["MASTER_PORT"] = str(port)
        processes = [
            subprocess.Popen(
                [sys.executable, sys.argv[0], *argv],
                env=threads | os.environ | job | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(world)
        ]
        statuses = [process.wait() for process in processes]
    return max(1 if status < 0 else status for status in statuses)
