"""Where glibc's malloc takes memory for large tensors, which decides who pays for page faults."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # malloc.h
_SETTINGS = {
    "fresh": {M_MMAP_MAX: 2**16, M_MMAP_THRESHOLD: 2**17, M_TRIM_THRESHOLD: 2**17},
    "warm": {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1},
    "glibc": {M_MMAP_MAX: 2**16, M_MMAP_THRESHOLD: 2**25, M_TRIM_THRESHOLD: 2**26},
}


def set_malloc(kind: str, warm_bytes: int = 2**28) -> Callable[[], None] | None:
    """Decides what glibc's malloc, and so ATen, gives to large tensors.

    Args:
        kind: "fresh": pages from the kernel, whose faults the call pays, if what this returns is
            run before it. "warm": memory that an earlier call has written. "glibc": as malloc's
            own adaptation leaves it in a long run: fresh from 32 MiB on.
        warm_bytes: written and given back to the heap for "warm".
    """
    libc = ctypes.CDLL(None)
    for parameter, value in _SETTINGS[kind].items():
        if libc.mallopt(parameter, value) != 1:
            raise RuntimeError(f"mallopt({parameter}, {value}) was refused")
    if kind == "warm":
        torch.ones(warm_bytes, dtype=torch.uint8)

    def release() -> None:
        libc.malloc_trim(0)

    return release if kind == "fresh" else None
