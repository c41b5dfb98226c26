"""Tars, plain or compressed, read without unpacking them to files; tars of image folders."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tarfile
import tempfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np

from sprout_fast.data.listing import READERS, Listing, Split, stamp
from sprout_fast.data.names import Names, is_hidden, is_image, printable
from sprout_fast.data.readers.folder import SPLITS, Files, arrange
from sprout_fast.data.regular import open_regular
from sprout_fast.errors import UserError

_SHUFFLE_WINDOW = 4096  # images
_ERRORS = (OSError, EOFError, lzma.LZMAError, tarfile.TarError)  # of damaged tars
_OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
# A tar of image files is hardly larger than its compressed form, and one of bitmaps a few times.
# What grows a hundredfold, beyond the padding in a small tar, was made to fill the disk.
_MOST_GROWTH = 100
_ALWAYS_ALLOWED = 64 << 20  # bytes

Place = tuple[int, int]  # of a file in a tar: where its content begins, and its size in bytes


@dataclass(frozen=True, eq=False)
class TarSplit(Split):
    """Image files inside of tars."""

    tars: tuple[str, ...]  # by name, for messages
    files: tuple[str, ...]  # the same, uncompressed
    tar: np.ndarray  # int64 [N], which of them holds the image
    places: np.ndarray  # int64 [N, 2], offset and size in it
    names: Names  # of files in the tars
    row: np.ndarray  # int64 [N], which of the names is the image's

    def name(self, index: int) -> str:
        return printable(f"{self.tars[self.tar[index]]}/{self.names[self.row[index]]}")

    def read(self, index: int) -> bytes:
        try:
            with open_regular(self.files[self.tar[index]]) as file:
                offset, size = self.places[index]
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise UserError(f"{self.name(index)}: cannot be read ({error.strerror})") from error

    def shuffled(self, random: np.random.Generator) -> np.ndarray:
        if len(self.tars) == 1:
            return super().shuffled(random)
        # Tars in random order, and images at random within a window that moves along: so that
        # disks and networks read mostly in sequence.
        order = np.argsort(random.permutation(len(self.tars))[self.tar], kind="stable")
        place = np.arange(len(self)) + random.uniform(0, _SHUFFLE_WINDOW, len(self))
        return order[np.argsort(place)]


Shard = tuple[Path, Path, Names, np.ndarray]  # a tar, its uncompressed file, images, int64 [n, 2]


def tar_split(shards: Sequence[Shard], labels: np.ndarray) -> TarSplit:
    """Make a split of the images of tars, in turn."""
    tars, files, names, places = zip(*shards, strict=True)
    return TarSplit(
        labels,
        tars=tuple(map(str, tars)),
        files=tuple(map(str, files)),
        tar=np.repeat(np.arange(len(tars)), list(map(len, names))),
        places=np.concatenate(places),
        names=Names.join(names),
        row=np.arange(len(labels)),
    )


def as_places(places: Iterable[Place]) -> np.ndarray:
    """Return ``places`` as int64 [n, 2]."""
    return np.array(list(places), np.int64).reshape(-1, 2)


def list_members(tar: Path) -> tuple[Path, dict[str, Place]]:
    """Return the path of the uncompressed tar, and its files by name, in order.

    Names lose a leading ``./``. Hidden names are skipped. Of two files of one name the later is
    kept, in the place of the earlier, as in unpacking.

    Raises:
        UserError: the tar cannot be read or is cut off.
    """
    try:
        file = _uncompressed(tar)
        members: dict[str, Place] = {}
        with open_regular(file) as content, tarfile.open(fileobj=content, mode="r:") as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()  # pyright: ignore  # it keeps a kilobyte for each file
                parts, place = PurePosixPath(info.name).parts, None
                if info.issparse():
                    raise tarfile.ReadError(f"{printable(info.name)} is a sparse file")
                if info.isfile():
                    place = info.offset_data, info.size
                elif info.islnk():  # a second name of a file that came before
                    place = members.get("/".join(PurePosixPath(info.linkname).parts))
                if place is not None and not any(map(is_hidden, parts)):
                    members["/".join(parts)] = place
            # tarfile takes a cut inside of a header for the end, which a block of zeros marks.
            if archive.offset + tarfile.BLOCKSIZE > file.stat().st_size:
                raise tarfile.ReadError("it is cut off")
    except (*_ERRORS, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{printable(tar)}: not a readable tar file ({reason})") from error
    return file, members


def unpacked(tar: Path, folders: Collection[str]) -> Path | None:
    """Unpack one of ``folders``, if ``tar`` begins with it, for the life of the process."""
    try:
        file = _uncompressed(tar)
        with open_regular(file) as content, tarfile.open(fileobj=content, mode="r:") as archive:
            first = archive.next()
    except _ERRORS:
        return None  # the reader of image folders will say what is wrong
    folder = "/".join(PurePosixPath(first.name).parts[:1]) if first is not None else ""
    if folder not in folders:
        return None
    file, members = list_members(tar)
    root = Path(tempfile.mkdtemp(dir=_temporary_folder().name))
    with open_regular(file) as content:
        for name, (offset, size) in members.items():
            if name.startswith(f"{folder}/"):  # an absolute path would be written where it says
                content.seek(offset)
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(content.read(size))
    return root


@READERS.register("tar")
def scan_image_tar(tar: Path) -> Listing | None:
    """List the images of a tar by the rules of ``scan_folder``, or return None if not a file.

    A folder around the whole (``cifar10/train/...``) is ignored.

    Raises:
        UserError: not a tar, damaged, or ``scan_folder`` would refuse what it unpacks to.
    """
    if not tar.is_file():
        return None
    seen = stamp(tar)
    file, members = list_members(tar)
    parts = {name: PurePosixPath(name).parts for name in members if is_image(name)}
    if not parts:
        expected = "expected train/<class>/<image> and val/ or test/"
        raise UserError(f"{printable(tar)}: no images; {expected}")
    while _is_wrapped(parts.values()):
        parts = {name: path[1:] for name, path in parts.items()}

    def files_in(folder: Path) -> Files:
        root = folder.relative_to(tar).parts
        files: dict[str, list[str]] = {}
        # Within a class in the order of os.walk, as torchvision's: by folder, then by name.
        for name in sorted(parts, key=lambda name: name.rpartition("/")):
            *folders, _ = parts[name]
            if len(folders) > len(root) and tuple(folders[: len(root)]) == root:
                files.setdefault(folders[len(root)], []).append(name)
        return {name: Names.pack(held) for name, held in files.items()}

    def split(names: Names, labels: np.ndarray) -> TarSplit:
        return tar_split([(tar, file, names, as_places(members[name] for name in names))], labels)

    folders = {path[0] for path in parts.values() if len(path) > 1}
    listing = arrange(tar, folders, files_in, split, f"tar {printable(tar)}")
    # What is uncompressed lives as long as this process.
    return replace(listing, sources={str(tar): seen} if file == tar else None)


def _uncompressed(tar: Path) -> Path:
    with open_regular(tar) as file:
        start = file.read(8)
    for magic, opener in _OPENERS.items():
        if start.startswith(magic):
            return _decompress(tar.resolve(), *stamp(tar), opener)
    return tar


@cache
def _decompress(tar: Path, mtime: int, size: int, opener) -> Path:
    """Uncompress a version of ``tar`` into a folder that lives as long as the process."""
    limit = max(_MOST_GROWTH * size, _ALWAYS_ALLOWED)
    handle, name = tempfile.mkstemp(dir=_temporary_folder().name, suffix=".tar")
    with opener(tar, "rb") as packed, os.fdopen(handle, "wb") as plain:
        while block := packed.read(1 << 20):
            if plain.tell() + len(block) > limit:
                plain.truncate(0)
                raise tarfile.ReadError(
                    f"{size:,} bytes uncompress to more than {limit:,}, so it holds no images"
                )
            plain.write(block)
    return Path(name)


@cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="sprout_fast_tars_")


def _is_wrapped(paths: Collection[tuple[str, ...]]) -> bool:
    firsts = {path[0] for path in paths}
    return len(firsts) == 1 and not firsts & set(SPLITS) and max(map(len, paths)) > 2
