"""Checkpoints that are whole or not there: written beside their place, then moved into it."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sprout_fast.distributed import World
from sprout_fast.errors import UserError
from sprout_fast.models import CHECKPOINT_FORMAT, read_checkpoint
from sprout_fast.random import PhiloxState


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` to ``path``: afterwards the file is the new one, or still the old one.

    Raises:
        UserError: the folder is full or read-only; no temporary file is left.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save({"format": CHECKPOINT_FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        # torch's zip writer reports a failed write as a RuntimeError of its own, raised while the
        # OSError was handled.
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError):
            raise UserError(f"{path}: cannot be written: {cause.strerror}{_kept(path)}") from error
        raise


def link_checkpoint(source: Path, path: Path) -> None:
    """Make ``path`` a second name of the checkpoint ``source``, whole or not at all.

    A link, because checkpoints are replaced and never written into; a copy where the file system
    has no links.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        os.link(source, temporary)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise UserError(f"{path}: cannot be written: {error.strerror}{_kept(path)}") from error
        save_checkpoint(path, read_checkpoint(source))
        return
    os.replace(temporary, path)


def _kept(path: Path) -> str:
    return "; the earlier one is kept" if path.exists() else ""


def rng_state(method: nn.Module, device: torch.device) -> dict[str, Any]:
    """Every random state of this process: the method's own, torch's, and that of its GPU."""
    return {
        "method": method.state_dict(),
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device)] if device.type == "cuda" else [],
    }


def restore_rng_state(state: dict[str, Any], method: nn.Module, world: World) -> None:
    """The inverse of `rng_state`, in all processes, though the first one alone has saved.

    The method's draws go on exactly, each process at its own rows of the batch. torch's own
    generator, which serves dropout, goes on in the first process; the others keep their seeds.
    """
    streams = [module for module in method.modules() if isinstance(module, PhiloxState)]
    first_rows = [stream.state[2].clone() for stream in streams]
    method.load_state_dict(state["method"])
    for stream, first_row in zip(streams, first_rows, strict=True):
        stream.state[2] = first_row
    if world.is_main:
        torch.set_rng_state(state["torch"])
        if state["cuda"] and world.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"][0], world.device)
