"""Listings that took long, kept in files from which all processes read them.

A listing is read from its file if every folder and tar that it came from has the time of change
and the size that it had then: adding, removing or renaming an image changes its folder's time. A
file that is cut off, damaged or of another version is replaced. What changed less than two seconds
before it was listed is not kept, since a change right after that may not alter the time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sprout_fast.data.listing import FileSplit, Listing, Split, stamp
from sprout_fast.data.names import Names
from sprout_fast.data.readers.tar import TarSplit
from sprout_fast.files import atomic_write

_MAGIC = b"sprout_fast listing 1\n"  # another number whenever the fields of a split change
_KINDS: dict[str, type[Split]] = {kind.__name__: kind for kind in (FileSplit, TarSplit)}
_ALIGNMENT = 64
_MARGIN = 2.0  # seconds


def keep(data: Path, read: Callable[[], Listing], least_seconds: float = 1.0) -> Listing:
    """Return the listing of ``data`` from its file, or else from ``read``.

    A listing that ``read`` took ``least_seconds`` for is kept. Where the folder of the cache cannot
    be written, it is not, which is said in its ``layout``.
    """
    name = hashlib.sha256(f"{os.path.abspath(data)}\0{data}".encode("utf-8", "replace")).hexdigest()
    path = folder() / f"{name[:32]}.listing"
    with _turn(path):
        if (listing := _load(path)) is not None:
            return listing
        start = time.time()
        listing = read()
        if listing.sources is None or time.time() - start < least_seconds:
            return listing
        newest = max(changed for changed, _ in listing.sources.values()) / 1e9
        if newest > start - _MARGIN:
            return listing
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as temporary, open(temporary, "wb") as file:
                _dump(listing, file)
        except OSError as error:
            reason = f"listing not cached, {path.parent} cannot be written: {error.strerror}"
            return dataclasses.replace(listing, layout=f"{listing.layout} ({reason})")
        return listing


def folder() -> Path:
    """Return the folder of the listings."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(root) / "sprout_fast" / "listings"


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Let the processes that torchrun started in one after the other.

    A lock rather than a barrier: listing may take longer than a process group waits, and a process
    that fails, or dies, lets the next one in.
    """
    with contextlib.ExitStack() as stack:
        if int(os.environ.get("WORLD_SIZE") or 1) > 1:
            # No cache, or a file system without locks: all processes list.
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context(open(path.with_suffix(".lock"), "ab"))
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _dump(listing: Listing, file: BinaryIO) -> None:
    arrays: list[np.ndarray] = []

    def plain(split: Split) -> dict[str, Any]:
        values: dict[str, Any] = {"kind": type(split).__name__}
        for field in dataclasses.fields(split):
            value = getattr(split, field.name)
            held = [value] if isinstance(value, np.ndarray) else []
            held = [value.text, value.ends] if isinstance(value, Names) else held
            values[field.name] = value if not held else [len(arrays) + i for i in range(len(held))]
            arrays.extend(held)
        return values

    assert listing.sources is not None
    same = listing.train is listing.val
    header = {
        "classes": listing.classes,
        "layout": listing.layout,
        "listed": time.strftime("%Y-%m-%d %H:%M"),
        "splits": [plain(listing.train)] + ([] if same else [plain(listing.val)]),
        "sources": [[name, *seen] for name, seen in listing.sources.items()],
        "arrays": [[array.dtype.str, array.shape] for array in arrays],
    }
    content = bytearray(json.dumps(header).encode())
    content += b"\n"
    for array in arrays:
        content += bytes(-(len(_MAGIC) + 9 + len(content)) % _ALIGNMENT)
        content += array.tobytes()
    file.write(_MAGIC + b"%08x\n" % zlib.crc32(content))
    file.write(content)


def _load(path: Path) -> Listing | None:
    """Return the listing in a file, or None if there is none, or it is damaged or out of date."""
    try:
        # Not mapped: on a network file system, a file that another machine replaces is gone.
        content = path.read_bytes()
        start = len(_MAGIC) + 9
        if content[:start] != _MAGIC + b"%08x\n" % zlib.crc32(memoryview(content)[start:]):
            return None
        at = content.index(b"\n", start) + 1
        header = json.loads(content[start:at])
        for name, *seen in header["sources"]:
            if stamp(name) != tuple(seen):
                return None
    except (OSError, ValueError):
        return None
    arrays = []
    for dtype, shape in header["arrays"]:
        at += -at % _ALIGNMENT
        arrays.append(np.frombuffer(content, dtype, math.prod(shape), at).reshape(shape))
        at += arrays[-1].nbytes
    splits = [_split(values, arrays) for values in header["splits"]]
    layout = f"{header['layout']} (as listed {header['listed']}, unchanged since)"
    return Listing(header["classes"], splits[0], splits[-1], layout)


def _split(values: Mapping[str, Any], arrays: list[np.ndarray]) -> Split:
    kind, arguments = _KINDS[values["kind"]], {}
    for field in dataclasses.fields(kind):
        value = values[field.name]
        if field.type == "np.ndarray":
            value = arrays[value[0]]
        elif field.type == "Names":
            value = Names(*(arrays[i] for i in value))
        elif isinstance(value, list):
            value = tuple(value)
        arguments[field.name] = value
    return kind(**arguments)
