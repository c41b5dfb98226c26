"""Tars, plain or compressed, read without unpacking them to files; tars of image folders."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import tarfile
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np

from sprout_fast.data.listing import READERS, Listing, Split, decode_name, encode_names
from sprout_fast.data.names import is_hidden, is_image, printable
from sprout_fast.data.readers.folder import SPLITS, Files, arrange
from sprout_fast.errors import UserError

_SHUFFLE_WINDOW = 4096  # images
_ERRORS = (OSError, EOFError, lzma.LZMAError, tarfile.TarError)  # of damaged tars
_OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


Place = tuple[int, int]  # of a file in a tar: where its content begins, and its size in bytes


@dataclass(frozen=True, eq=False)
class TarSplit(Split):
    """Image files inside of tars."""

    tars: tuple[str, ...]  # by name, for messages
    files: tuple[str, ...]  # the same, uncompressed
    tar: np.ndarray  # int64 [N], which of them holds the image
    places: np.ndarray  # int64 [N, 2], offset and size in it
    members: np.ndarray  # bytes [N], names in the tar as encode_names packs them

    def name(self, index: int) -> str:
        return printable(f"{self.tars[self.tar[index]]}/{decode_name(self.members[index])}")

    def read(self, index: int) -> bytes:
        try:
            with open(self.files[self.tar[index]], "rb") as file:
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


def tar_split(
    tars: Sequence[tuple[Path, Path, Sequence[tuple[str, Place]]]], labels: np.ndarray
) -> TarSplit:
    """Make a split of tars: of each its path, its uncompressed file, and its images in turn."""
    images = [image for _, _, held in tars for image in held]
    return TarSplit(
        labels,
        tars=tuple(str(tar) for tar, _, _ in tars),
        files=tuple(str(file) for _, file, _ in tars),
        tar=np.repeat(np.arange(len(tars)), [len(held) for _, _, held in tars]),
        places=np.array([place for _, place in images], np.int64).reshape(-1, 2),
        members=encode_names(name for name, _ in images),
    )


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
        with tarfile.open(file, "r:") as archive:
            for info in archive:
                parts, place = PurePosixPath(info.name).parts, None
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
        raise UserError(f"{printable(tar)}: not a readable tar file ({error})") from error
    return file, members


def unpacked(tar: Path, folders: Collection[str]) -> Path | None:
    """Unpack one of ``folders``, if ``tar`` begins with it, for the life of the process."""
    try:
        with tarfile.open(_uncompressed(tar), "r:") as archive:
            first = archive.next()
    except _ERRORS:
        return None  # the reader of image folders will say what is wrong
    folder = "/".join(PurePosixPath(first.name).parts[:1]) if first is not None else ""
    if folder not in folders:
        return None
    file, members = list_members(tar)
    root = Path(tempfile.mkdtemp(dir=_temporary_folder().name))
    with file.open("rb") as content:
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
        return files

    def split(names: list[str], labels: np.ndarray) -> TarSplit:
        return tar_split([(tar, file, [(name, members[name]) for name in names])], labels)

    folders = {path[0] for path in parts.values() if len(path) > 1}
    return arrange(tar, folders, files_in, split, f"tar {printable(tar)}")


def _uncompressed(tar: Path) -> Path:
    with tar.open("rb") as file:
        start = file.read(8)
    for magic, opener in _OPENERS.items():
        if start.startswith(magic):
            stat = tar.stat()
            return _decompress(tar.resolve(), stat.st_mtime_ns, stat.st_size, opener)
    return tar


@cache
def _decompress(tar: Path, mtime: int, size: int, opener) -> Path:
    """Uncompress a version of ``tar`` into a folder that lives as long as the process."""
    handle, name = tempfile.mkstemp(dir=_temporary_folder().name, suffix=".tar")
    with opener(tar, "rb") as packed, os.fdopen(handle, "wb") as plain:
        shutil.copyfileobj(packed, plain, 1 << 20)
    return Path(name)


@cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="sprout_fast_tars_")


def _is_wrapped(paths: Collection[tuple[str, ...]]) -> bool:
    firsts = {path[0] for path in paths}
    return len(firsts) == 1 and not firsts & set(SPLITS) and max(map(len, paths)) > 2
