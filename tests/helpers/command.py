"""Run a program and fail with all that it printed."""

from __future__ import annotations

import subprocess
from typing import Any


def run(*command: object, status: int = 0, **options: Any) -> str:
    """Return stdout of a command that must exit with ``status``; of a failing one stderr too."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == status, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout + (done.stderr if status else "")
