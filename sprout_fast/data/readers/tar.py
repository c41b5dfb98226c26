"""A tar of an image folder, plain or gzip, read without unpacking it."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

from sprout_fast.data.readers.folder import EXTENSIONS, SPLITS, Files, arrange
from sprout_fast.data.readers.listing import Listing
from sprout_fast.errors import UserError

_GZIP = b"\x1f\x8b"


def scan_image_tar(tar: Path) -> tuple[Listing, Callable[[str], np.ndarray]]:
    """List a tar's images by the rules of `scan_folder`, and give the function that reads one.

    A folder around the whole (``cifar10/train/...``) is passed over. The function takes a path of
    the listing, ``<tar>/<name in it>``, and gives the file's content, uint8 [bytes]. The tar is
    mapped into memory; a gzip is held there, unpacked.

    Raises:
        UserError: not a tar, damaged, or one that `scan_folder` would refuse when unpacked.
    """
    try:
        content, archive = _open(tar)
        with archive:
            members = {
                member.name: member
                for member in archive
                if member.isfile() and member.name.lower().endswith(EXTENSIONS)
            }
            # tarfile takes a cut within a header for the end, which a block of zeros marks.
            if archive.offset + tarfile.BLOCKSIZE > len(content):
                raise tarfile.ReadError("it is cut off")
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        raise UserError(f"{tar}: not a readable tar file ({error})") from error
    # macOS puts a ._NAME beside each file.
    parts = {name: PurePosixPath(name).parts for name in members}
    parts = {name: path for name, path in parts.items() if not path[-1].startswith(".")}
    if not parts:
        raise UserError(
            f"{tar}: no images; taken is a tar of train/<class>/<image> and val/ or test/ "
            "(of CIFAR's own archives the unpacked folder)"
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
                files.setdefault(folders[len(root)], []).append(f"{tar}/{name}")
        return files

    def read(path: str) -> np.ndarray:
        member = members[path.removeprefix(f"{tar}/")]
        return content[member.offset_data : member.offset_data + member.size]

    folders = {path[0] for path in parts.values() if len(path) > 1}
    return arrange(tar, folders, files_in, f"tar {tar}"), read


def _open(tar: Path) -> tuple[np.ndarray, tarfile.TarFile]:
    """The unpacked bytes and the archive over them."""
    with tar.open("rb") as file:
        is_gzip = file.read(len(_GZIP)) == _GZIP
    if is_gzip:
        unpacked = gzip.decompress(tar.read_bytes())
        return np.frombuffer(unpacked, np.uint8), tarfile.open(fileobj=io.BytesIO(unpacked))
    # As a plain array, whose slices take a tenth of the time of a memmap's.
    return np.asarray(np.memmap(tar, np.uint8, mode="r")), tarfile.open(tar, "r:")


def _is_wrapped(paths) -> bool:
    firsts = {path[0] for path in paths}
    return len(firsts) == 1 and not firsts & set(SPLITS) and max(map(len, paths)) > 2
