"""The few things that change when torchrun starts several processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sprout_fast.errors import UserError


def is_first_to_fail() -> bool:
    """Whether none of the processes that torchrun started has asked this before; alone, True.

    So that a mistake that all of them run into is told once, and one that a single process runs
    into, whichever it is, is told as well. They ask the store that torchrun's agent keeps.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=5))
        return store.add(f"sprout_fast/failed/{os.environ['TORCHELASTIC_RESTART_COUNT']}", 1) == 1
    except dist.DistError:  # the agent has gone
        return True


@dataclass(frozen=True)
class World:
    """This process among all: ``rank`` of ``size``, on ``device``."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and the log."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()

    def sum(self, values: Tensor) -> Tensor:
        """``values`` summed over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process the first one's buffers of ``model``."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)


@contextmanager
def joined_world(device: str | None) -> Iterator[World]:
    """Join the processes that torchrun started (RANK, WORLD_SIZE, LOCAL_RANK), or be alone.

    Args:
        device: "cpu", "cuda", "cuda:1" or None for cuda where there is one. Under torchrun "cuda"
            stands for the GPU of this process's LOCAL_RANK.

    Raises:
        UserError: a device that torch does not know or that is not there.
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
    """``name`` as a device that can be used now; None takes cuda where there is one."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and (local_rank is not None or device.index is None):
            device = torch.device("cuda", local_rank or 0)
        torch.empty(0, device=device)
    # torch raises RuntimeError, AssertionError (a build without CUDA) or NotImplementedError (meta
    # kernels of a back end that is not there)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name}: cannot be used here: {reason}") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: takes cpu or cuda")
    return device
