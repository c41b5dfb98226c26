"""Regular files only: opening a FIFO waits for a writer, and reading a device may never end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file, or a link to one, for reading.

    Raises:
        OSError: as ``open`` raises it, or the path is of another kind, which ``strerror`` says.

    >>> open_regular("/dev/null")
    Traceback (most recent call last):
    OSError: [Errno 22] a device, expected a regular file: '/dev/null'
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # which opens a FIFO at once
    try:
        _check_mode(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise


def check_regular(entry: os.DirEntry[str] | Path) -> None:
    """Raise ``OSError`` as :func:`open_regular` does, unless nothing is there (a broken link)."""
    if not entry.is_file():  # which costs a folder's entry no system call
        try:
            mode = entry.stat().st_mode
        except FileNotFoundError:
            return
        _check_mode(mode, entry)


def _check_mode(mode: int, path: str | os.PathLike[str]) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "neither a file nor a folder")
        raise OSError(errno.EINVAL, f"{kind}, expected a regular file", os.fspath(path))
