"""Files that are complete or absent, and folders that one process has to itself."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sprout_fast.errors import UserError


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


def write_json(path: str | Path, content: Any) -> None:
    """Write a JSON file as :func:`atomic_write` does.

    Raises:
        ValueError: ``content`` has a NaN or an infinity.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "numbers.json"
    >>> write_json(path, {"top1": 76.1})
    >>> json.loads(path.read_text())
    {'top1': 76.1}
    """
    with atomic_write(path) as temporary:
        text = json.dumps(content, indent=1, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[bool]:
    """Keep other processes out of ``folder``, and yield whether its file system has locks.

    The lock is on the file ``.lock`` in the folder, which names this process. It ends with the
    process, however that ends, and is not inherited by child processes. On NFS it holds across
    machines; where the server has no locks (and on some FUSE mounts) there is none.

    Raises:
        UserError: another process has the lock.
        OSError: the file cannot be written.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield False
        return
    with open(folder / ".lock", "a+") as file:
        try:
            # A lock of POSIX, not flock(2)'s: those are inherited by forked workers, which outlive
            # a killed process by seconds. It ends when any handle of the file is closed.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
                yield False
                return
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise UserError(f"{folder}: in use by {owner}", option="out") from None
        file.truncate(0)
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {now}\n")
        file.flush()
        yield True
