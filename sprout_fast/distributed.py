"""The device of this process, and the other processes if torchrun started several."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sprout_fast.errors import UserError


@dataclass(frozen=True)
class World:
    """This process: number ``rank`` of ``size``, computing on ``device``."""

    rank: int
    size: int
    device: torch.device

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

    def share_buffers(self, model: nn.Module) -> None:
        """Copy the buffers of ``model`` from the first process to all others."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)


class LateMaximum:
    """The largest of the processes' numbers, learned without waiting for them.

    All processes call the same methods in the same order. The numbers are exchanged on the CPU,
    beside what the device and the training exchange.

    >>> LateMaximum(World(0, 1, torch.device("cpu"))).late(15)
    15
    """

    def __init__(self, world: World) -> None:
        self._group: Any = dist.new_group(backend="gloo") if world.size > 1 else None
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
def joined_world(device: str | None) -> Iterator[World]:
    """Join the processes that torchrun started, if any, and leave them on exit.

    torchrun sets the environment variables RANK, WORLD_SIZE and LOCAL_RANK. Under it, ``device``
    ``"cuda"`` means the GPU with the number LOCAL_RANK; else it is as in :func:`pick_device`.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    chosen = pick_device(device, int(os.environ.get("LOCAL_RANK", 0)) if size > 1 else None)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size == 1:
        yield World(0, 1, chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), size, chosen)
    finally:
        dist.destroy_process_group()


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
