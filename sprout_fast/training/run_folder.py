"""The folder that a run writes to."""

from __future__ import annotations

import tempfile
from pathlib import Path

import yaml

from sprout_fast.errors import UserError
from sprout_fast.files import atomic_write
from sprout_fast.training.config import TrainConfig
from sprout_fast.training.progress import Display

# All that a run writes.
_FILES = ("*.pt", "config.yaml", "metrics.csv", "*.png", "events.out.tfevents.*")


def unused_folder(folder: Path) -> Path:
    """Return ``folder``, or the first of ``folder-2``, ``folder-3``, ... that does not exist."""
    number, unused = 1, folder
    while unused.exists():
        number += 1
        unused = folder.with_name(f"{folder.name}-{number}")
    return unused


def prepare_folder(config: TrainConfig, display: Display) -> None:
    """Create the folder ``config.out``, move a previous run aside, and write config.yaml.

    Raises:
        UserError: the folder cannot be created or written to.
    """
    out = config.out
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
        resumes_here = config.resume is not None and config.resume.parent.samefile(out)
        if (out / "last.pt").exists() and not resumes_here:
            previous = unused_folder(out / "previous")
            previous.mkdir()
            for pattern in _FILES:
                for file in out.glob(pattern):
                    file.rename(previous / file.name)
            display.line(f"moved the previous run in {out} to {previous}")
        with atomic_write(out / "config.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(config.stored(), sort_keys=False))
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}", option="out") from error
