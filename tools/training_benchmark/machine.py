"""The machine that measurements run on, and the CPU time that other processes use meanwhile."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sprout_fast import build_info
from sprout_fast.distributed import World


def machine_info(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return processor, cores, threads and versions, for ``caption`` and for JSON.

    >>> machine_info()["threads"] == torch.get_num_threads()
    True
    """
    device, build = torch.device(device), build_info()
    is_cuda = device.type == "cuda"
    return {
        "gpu": torch.cuda.get_device_name(device) if is_cuda else None,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "cpu_isa": build["cpu_isa"],
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "sprout_fast": build["version"],
        "compiler": build["compiler"],
        "python": platform.python_version(),
    }


def caption(machine: Mapping[str, Any], date: str) -> str:
    """Return date, machine and versions in one line.

    Args:
        machine: ``machine_info`` with ``others``, the result of ``OthersUse``.
        date: ISO date.
    """
    # If another process occupies a thread's core, every barrier waits for a time slice of 4 ms.
    others = machine["others"]
    warning = " (too much: repeat on an idle machine)" if others > 0.1 else ""
    gpu = f"{machine['gpu']}, " if machine["gpu"] else ""
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    return (
        f"{date}, {gpu}{machine['processor']}, {machine['cores']} cores (sprout_fast with"
        f" {machine['cpu_isa']}, torch with {machine['torch_isa']}), {threads}, other processes"
        f" used {100 * others:.0f} % of CPU time{warning}; torch {machine['torch']},"
        f" sprout_fast {machine['sprout_fast']} built with {machine['compiler']},"
        f" Python {machine['python']}"
    )


class OthersUse:
    """Measures the share of CPU time used by other processes, from construction to the call.

    ``world``, on one machine, are no others; all of its processes make the call.
    """

    def __init__(self, world: World | None = None) -> None:
        self._world = world
        self._busy, self._start = _busy_seconds(), time.perf_counter()

    def __call__(self) -> float:
        everyone, us = (end - start for end, start in zip(_busy_seconds(), self._busy, strict=True))
        if self._world is not None:
            us = self._world.sum(torch.tensor(us, device=self._world.device)).item()
        available = (os.cpu_count() or 1) * (time.perf_counter() - self._start)
        return max(everyone - us, 0.0) / available


def _busy_seconds() -> tuple[float, float]:
    """Return CPU seconds of all cores since boot, and of this process and its children."""
    user, nice, system, _, _, irq, softirq, *_ = Path("/proc/stat").read_text().split()[1:11]
    ticks = sum(map(int, (user, nice, system, irq, softirq)))
    return ticks / os.sysconf("SC_CLK_TCK"), sum(os.times()[:4])


def _processor() -> str:
    """Return name, family and model: a cloud's names do not tell one generation from another."""
    entries = re.findall(r"^(.*?)\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    found = dict(reversed(entries))  # of the first processor
    if "model name" not in found:
        return platform.machine()
    return f"{found['model name']} (family {found['cpu family']}, model {found['model']})"
