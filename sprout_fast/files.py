"""Files that are complete or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_write(path: str | Path, tag: str = "") -> Iterator[Path]:
    """Yield a temporary path whose file replaces ``path`` on success and is removed on failure.

    Readers find the old file or the new one, never a part of it, even if this process is killed:
    the data reaches the disk before the rename. The temporary file is ``.NAME.tmp`` in the same
    folder, or ``.NAME{tag}.tmp`` in a process that writes beside another; one left behind by a
    killed process is overwritten.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "numbers.txt"
    >>> with atomic_write(path) as temporary:
    ...     _ = temporary.write_text("1 2 3")
    >>> path.read_text()
    '1 2 3'
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}{tag}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        # rename(2) does nothing where both names are links to one file.
        temporary.unlink(missing_ok=True)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
