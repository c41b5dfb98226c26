"""Settings of glibc's malloc for large tensors, which decide who pays for page faults."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Literal

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # malloc.h
_SETTINGS = {
    "fresh": {M_MMAP_MAX: 2**16, M_MMAP_THRESHOLD: 2**17, M_TRIM_THRESHOLD: 2**17},
    "warm": {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1},
    "glibc": {M_MMAP_MAX: 2**16, M_MMAP_THRESHOLD: 2**25, M_TRIM_THRESHOLD: 2**26},
}


def set_malloc(
    kind: Literal["fresh", "warm", "glibc"], warm_bytes: int = 2**28
) -> Callable[[], None] | None:
    """Choose what memory glibc's malloc, and thus ATen, returns for large tensors.

    Args:
        kind: ``"fresh"``: new pages from the kernel, so that the timed call pays for page faults,
            provided that the returned function is run before it. ``"warm"``: memory that an
            earlier call has written. ``"glibc"``: what malloc's own adaptation arrives at in a long
            run, i.e. fresh pages from 32 MiB on.
        warm_bytes: size of the block that ``"warm"`` writes and frees.

    Returns:
        for ``"fresh"``, a function that returns freed memory to the kernel; otherwise None.
    """
    libc = ctypes.CDLL(None)
    for parameter, value in _SETTINGS[kind].items():
        if libc.mallopt(parameter, value) != 1:
            raise RuntimeError(f"mallopt({parameter}, {value}) failed")
    if kind == "warm":
        torch.ones(warm_bytes, dtype=torch.uint8)

    def release() -> None:
        libc.malloc_trim(0)

    return release if kind == "fresh" else None
