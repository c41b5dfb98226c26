"""What a run was started with: code, machine and command, in the run's folder."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import sprout_fast
from sprout_fast.distributed import World
from sprout_fast.evaluation.results import versions
from sprout_fast.files import write_json

FILE = "environment.json"
_PACKAGES = ("torchvision", "nvidia-dali-cuda130", "timm", "numpy", "pillow", "wandb")
# Of the environment's variables only these, since others hold secrets.
_VARIABLES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "SPROUT_FAST_ISA", "SLURM_JOB_ID")
_VARIABLES += ("SLURM_RESTART_COUNT", "SLURM_JOB_NODELIST", "TORCHELASTIC_RESTART_COUNT")


def record_start(out: Path, world: World, step: int, resumed_from: Path | None) -> None:
    """Append this start of a run to ``environment.json`` in its folder, a list of all its starts.

    Args:
        out: the folder.
        world: the process that writes.
        step: optimizer step at which the run starts.
        resumed_from: the checkpoint, or None.

    Raises:
        OSError: the file cannot be written.
    """
    starts = []
    with contextlib.suppress(OSError, ValueError):  # the first start, or not JSON any more
        starts = json.loads((out / FILE).read_text(encoding="utf-8"))
    start = {
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": _command(),
        "working_directory": os.getcwd(),
        "resumed_from": None if resumed_from is None else str(resumed_from),
        "step": step,
        "git": {
            "sprout_fast": git_commit(Path(sprout_fast.__file__).parent, "__init__.py"),
            "working_directory": git_commit(Path.cwd()),
        },
        "host": socket.gethostname(),
        "processes": world.size,
        "devices": _devices(world),
        "versions": versions() | _versions(),
        "build": sprout_fast.build_info(),
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }
    write_json(out / FILE, [*starts, start])


def git_commit(folder: Path, file: str = ".") -> dict[str, Any] | None:
    """Return the commit that is checked out in ``folder``, and whether tracked files differ.

    None if there is no git, or if it does not track ``file`` there, as with a package installed
    into an environment within another repository.
    """
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        options: dict[str, Any] = {"capture_output": True, "text": True, "env": environment}
        return subprocess.run(command, check=True, timeout=30, **options).stdout.strip()

    try:
        if not git("ls-files", "--", file):
            return None
        changes = git("status", "--porcelain", "--untracked-files=no")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changes)}
    except (OSError, subprocess.SubprocessError):
        return None


def _command() -> str:
    """Return the command that started this process, or the torchrun that did."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        with contextlib.suppress(OSError):  # Linux only
            line = Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
            return shlex.join(os.fsdecode(line).rstrip("\0").split("\0"))
    return shlex.join(sys.orig_argv)


def _devices(world: World) -> list[str]:
    """Return the names of this machine's GPUs, or its number of cores if the run uses none."""
    if world.device.type == "cuda":
        return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return [f"CPU, {os.cpu_count()} cores"]


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    if torch.version.cuda is not None:
        found["cuda"] = torch.version.cuda
        found["cudnn"] = str(torch.backends.cudnn.version())
    return found
