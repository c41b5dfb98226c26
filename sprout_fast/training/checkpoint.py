"""Checkpoints, which are complete or absent, and the random states in them."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sprout_fast.distributed import World
from sprout_fast.errors import UserError
from sprout_fast.files import atomic_write
from sprout_fast.models import CHECKPOINT_FORMAT
from sprout_fast.random import PhiloxState

# Errors of file systems without hard links.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` to ``path``, which then holds the new checkpoint or still the old one.

    Raises:
        UserError: the folder is full or read-only; no temporary file is left.
    """
    try:
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            torch.save({"format": CHECKPOINT_FORMAT, **content}, file)
    except Exception as error:
        # torch's zip writer reports a failed write as a RuntimeError of its own, raised while the
        # OSError was handled.
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError):
            raise _cannot_write(path, cause) from error
        raise


def link_checkpoint(source: Path, path: Path) -> None:
    """Make ``path`` a second name of the checkpoint ``source``, or raise as save_checkpoint does.

    A link is enough, because checkpoints are replaced and never modified; on a file system without
    links it is a copy.
    """
    try:
        with atomic_write(path) as temporary:
            try:
                os.link(source, temporary)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                shutil.copyfile(source, temporary)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> UserError:
    kept = "; the previous one is kept" if path.exists() else ""
    return UserError(f"{path}: cannot be written: {error.strerror}{kept}")


def rng_state(method: nn.Module, device: torch.device) -> dict[str, Any]:
    """Return every random state of this process: the method's, torch's, and the GPU's."""
    return {
        "method": method.state_dict(),
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device)] if device.type == "cuda" else [],
    }


def restore_rng_state(state: dict[str, Any], method: nn.Module, world: World) -> None:
    """Restore the result of :func:`rng_state`, saved by the first process, in every process.

    The method's random streams continue exactly, in each process at its own rows of the batch.
    torch's generator, which dropout uses, continues in the first process; the others keep their
    seeds.
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
