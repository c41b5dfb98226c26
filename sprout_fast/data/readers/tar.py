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
from typing import NamedTuple

import numpy as np

from sprout_fast.data.listing import READERS, Listing, Split, decode_name, encode_names
from sprout_fast.data.names import is_hidden, is_image, printable
from sprout_fast.data.readers.folder import SPLITS, Files, arrange
from sprout_fast.errors import UserError

_SHUFFLE_WINDOW = 4096  # images
_OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


class Member(NamedTuple):
    """A file in a tar: where its content begins and how many bytes it has."""

    offset: int
    size: int


@dataclass(frozen=True, eq=False)
class TarSplit(Split):
    """Image files inside of tars.

    Attributes:
        tars: the tars by name, for messages.
        files: the uncompressed tars.
        tar: int64 [N], which of them holds the image.
        offsets, sizes: int64 [N], where in it.
        members: bytes [N], names in the tar as :func:`encode_names` packs them.
    """

    tars: tuple[str, ...]
    files: tuple[str, ...]
    tar: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    members: np.ndarray

    def name(self, index: int) -> str:
        return printable(f"{self.tars[self.tar[index]]}/{decode_name(self.members[index])}")

    def read(self, index: int) -> bytes:
        try:
            with open(self.files[self.tar[index]], "rb") as file:
                file.seek(self.offsets[index])
                return file.read(self.sizes[index])
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
    tars: Sequence[tuple[Path, Path, Sequence[tuple[str, Member]]]], labels: np.ndarray
) -> TarSplit:
    """Make a split of tars, each given as its path, its uncompressed file and its images.

    Args:
        tars: per tar, its path, the path of the uncompressed tar, and its images.
        labels: int64 [N], of all images in turn.
    """
    images = [image for _, _, held in tars for image in held]
    places = np.array([member for _, member in images], np.int64).reshape(-1, 2)
    return TarSplit(
        labels,
        tars=tuple(str(tar) for tar, _, _ in tars),
        files=tuple(str(file) for _, file, _ in tars),
        tar=np.repeat(np.arange(len(tars)), [len(held) for _, _, held in tars]),
        offsets=places[:, 0],
        sizes=places[:, 1],
        members=encode_names(name for name, _ in images),
    )


def list_members(tar: Path) -> tuple[Path, dict[str, Member]]:
    """Return the path of the uncompressed tar, and its files by name, in order.

    Names lose a leading ``./``. Hidden names are skipped. Of two files of one name the later is
    kept, in the place of the earlier, as in unpacking.

    Raises:
        UserError: the tar cannot be read or is cut off.
    """
    try:
        file = _uncompressed(tar)
        members: dict[str, Member] = {}
        with tarfile.open(file, "r:") as archive:
            for info in archive:
                if not (info.isfile() or info.islnk()):
                    continue
                parts = PurePosixPath(info.name).parts
                if any(map(is_hidden, parts)):
                    continue
                member = Member(info.offset_data, info.size)
                if info.islnk():  # a second name of a file that came before
                    target = members.get("/".join(PurePosixPath(info.linkname).parts))
                    if target is None:
                        continue
                    member = target
                members["/".join(parts)] = member
            # tarfile takes a cut inside of a header for the end, which a block of zeros marks.
            if archive.offset + tarfile.BLOCKSIZE > file.stat().st_size:
                raise tarfile.ReadError("it is cut off")
    except (OSError, EOFError, ValueError, lzma.LZMAError, tarfile.TarError) as error:
        raise UserError(f"{printable(tar)}: not a readable tar file ({error})") from error
    return file, members


def unpacked(tar: Path, folders: Collection[str]) -> Path | None:
    """Unpack a tar that begins with one of ``folders``; return where, or None.

    The copy lives as long as the process.

    Raises:
        UserError: the tar cannot be read or is cut off.
    """
    try:
        with tarfile.open(_uncompressed(tar), "r:") as archive:
            first = archive.next()
    except (OSError, EOFError, lzma.LZMAError, tarfile.TarError):
        return None  # the reader of image folders will say what is wrong
    if first is None or PurePosixPath(first.name).parts[:1] not in {(name,) for name in folders}:
        return None
    file, members = list_members(tar)
    root = Path(tempfile.mkdtemp(dir=_temporary_folder().name))
    with file.open("rb") as content:
        for name, member in members.items():
            content.seek(member.offset)
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content.read(member.size))
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
        raise UserError(
            f"{printable(tar)}: no images; expected train/<class>/<image> and val/ or test/"
        )
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
    """Uncompress ``tar``, once per version, into a folder that lives as long as the process."""
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
