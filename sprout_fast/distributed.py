"""The device of this process, and the other processes of its job if there are several."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sprout_fast.errors import UserError
from sprout_fast.job import Watch

TIMEOUT = 600.0  # seconds


@dataclass(frozen=True)
class World:
    """This process: number ``rank`` of ``size``, computing on ``device``.

    It may keep the others waiting for ``timeout`` seconds before they end the job.
    """

    rank: int
    size: int
    device: torch.device
    timeout: float = TIMEOUT

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and the log; the others write none."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()

    def sum(self, values: Tensor) -> Tensor:
        """Sum ``values`` over the processes, in place, and return them."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def share_buffers(self, model: nn.Module, how: Literal["reduce", "broadcast"]) -> None:
        """Make the buffers of ``model`` the same in all processes.

        ``"broadcast"`` copies those of the first process; ``"reduce"`` averages the floating-point
        ones, which are batch norm's means and variances.
        """
        if self.size == 1:
            return
        groups: dict[torch.dtype, list[Tensor]] = {}
        for buffer in model.buffers():
            groups.setdefault(buffer.dtype, []).append(buffer)
        for dtype, buffers in groups.items():  # one message for all buffers of a type
            flat = torch.cat([buffer.flatten() for buffer in buffers])
            if how == "reduce" and dtype.is_floating_point:
                self.sum(flat).div_(self.size)
            else:
                dist.broadcast(flat, 0)
            parts = flat.split([buffer.numel() for buffer in buffers])
            for buffer, part in zip(buffers, parts, strict=True):
                buffer.copy_(part.view_as(buffer))


class LateMaximum:
    """The largest of the processes' numbers, learned without waiting for them.

    All processes call the same methods in the same order. The numbers are exchanged on the CPU,
    beside what the device and the training exchange.

    >>> LateMaximum(World(0, 1, torch.device("cpu"))).late(15)
    15
    """

    def __init__(self, world: World) -> None:
        limit = timedelta(seconds=world.timeout)
        several = world.size > 1
        self._group: Any = dist.new_group(backend="gloo", timeout=limit) if several else None
        self._pending: tuple[Any, Tensor] | None = None

    def late(self, value: int) -> int:
        """Return the maximum over the processes' values of the last call, and pass on this one's.

        A single process gets its ``value`` at once.
        """
        if self._group is None:
            return value
        before, flag = self._received(), torch.tensor(value)
        work = dist.all_reduce(flag, dist.ReduceOp.MAX, self._group, async_op=True)
        self._pending = work, flag
        return before

    def now(self, value: int) -> int:
        """Wait for all processes, and return the maximum of this call's and the last values."""
        late = self.late(value)
        return late if self._group is None else max(late, self._received())

    def _received(self) -> int:
        if self._pending is None:
            return 0
        (work, flag), self._pending = self._pending, None
        work.wait()
        return int(flag)


@contextmanager
def joined_world(device: str | None, timeout: float = TIMEOUT) -> Iterator[World]:
    """Join the other processes of the job, if any, and leave them at the end.

    torchrun sets the environment variables RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
    MASTER_PORT. Under it, ``device`` ``"cuda"`` means the GPU with the number LOCAL_RANK; else it
    is as in :func:`pick_device`. After an exception, the processes remain joined: end this one with
    :func:`sprout_fast.job.end_job`.

    Args:
        device: where this process computes.
        timeout: seconds that a process may keep the others waiting before they end the job.

    Raises:
        UserError: the environment variables are incomplete, MASTER_PORT is in use, or the device
            does not work.
    """
    rank, size, local_rank = _place_in_job()
    chosen = pick_device(device, local_rank if size > 1 else None)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size == 1:
        yield World(0, 1, chosen)
        return
    try:
        dist.init_process_group(
            "nccl" if chosen.type == "cuda" else "gloo",
            timeout=timedelta(seconds=timeout),
            device_id=chosen if chosen.type == "cuda" else None,
        )
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise UserError(
            f"environment variable MASTER_PORT is {os.environ['MASTER_PORT']}: another program on"
            " this machine uses that port; expected a free one, the same for all processes"
        ) from None
    watch = Watch(rank, size, timeout)
    watch.start()
    yield World(rank, size, chosen, timeout)
    dist.barrier()  # nobody leaves while another one still watches it or needs the store
    watch.stop()
    dist.destroy_process_group()


@contextmanager
def held_port() -> Iterator[int]:
    """Yield a free TCP port for MASTER_PORT of processes that are started within the block.

    Linux may give a port that was free a moment ago to whoever asks for any next. Until the
    end of the block, or of processes forked within it, it gives this one to nobody: a socket keeps
    it, bound but not listening. The job's store can listen on it all the same, since it asks for it
    by number and sets SO_REUSEADDR, as the socket does.

    >>> with held_port() as port:
    ...     0 < port < 65536
    True
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("", 0))
        yield holder.getsockname()[1]


def _place_in_job() -> tuple[int, int, int]:
    """Return RANK, WORLD_SIZE and LOCAL_RANK of a job, or 0, 1, 0 for a single process."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    given = {name: os.environ.get(name) for name in names}
    tasks = os.environ.get("SLURM_NTASKS", "1")
    if given["WORLD_SIZE"] is None and given["RANK"] is None and tasks not in ("", "1"):
        if os.environ.get("SLURM_PROCID", "0") != "0":
            raise SystemExit(2)  # one task says it for all
        raise UserError(
            f"SLURM_NTASKS is {tasks}, but RANK is not set, so each task would train alone: run"
            " torchrun in one task per node, or set WORLD_SIZE=1 to train in one process"
        )
    numbers = {}
    for name, low in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0), ("MASTER_PORT", 0)):
        text = given[name]
        if text is not None and not (text.isdecimal() and int(text) >= low):
            raise UserError(
                f"environment variable {name} is {text!r}: expected a whole number of at least"
                f" {low}, as torchrun sets it"
            )
        numbers[name] = int(text or 0)
    if given["WORLD_SIZE"] is None and given["RANK"] is not None:
        raise UserError("environment variable RANK is set, but WORLD_SIZE is not; set both or none")
    size = 1 if given["WORLD_SIZE"] is None else numbers["WORLD_SIZE"]
    if size == 1:
        return 0, 1, 0
    if missing := [name for name in names if not given[name]]:
        raise UserError(
            f"environment variable WORLD_SIZE is {size}, but {', '.join(missing)}"
            f" {'is' if len(missing) == 1 else 'are'} not set: start the processes with torchrun"
            f" --nproc-per-node {size}, or set all of {', '.join(names)}"
        )
    if (rank := numbers["RANK"]) >= size:
        raise UserError(
            f"environment variable RANK is {rank}: expected a number below WORLD_SIZE, {size}"
        )
    return rank, size, numbers["LOCAL_RANK"]


def pick_device(name: str | None, local_rank: int | None = None) -> torch.device:
    """Return the device called ``name`` after checking that it works.

    Args:
        name: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or None for cuda if available.
        local_rank: number of the GPU that this process uses, whatever index ``name`` gives.

    Raises:
        UserError: the device is unknown or unavailable, or neither a CPU nor a CUDA device.

    >>> pick_device("cpu")
    device(type='cpu')
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and (local_rank is not None or device.index is None):
            device = torch.device("cuda", local_rank or 0)
        torch.empty(0, device=device)
    # torch raises RuntimeError, AssertionError (a build without CUDA) or NotImplementedError (no
    # kernels of that back end)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{name}: not available: {reason}", option="device") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"{name}: expected cpu or cuda", option="device")
    return device
