"""Files of ``torch.save``: written with a checksum, read without running code in them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import struct
import warnings
from pathlib import Path
from typing import IO, Any

import torch

from sprout_fast.errors import UserError

# A ZIP file, as torch.save writes it, ends with the length of its comment, 0, and the comment. The
# comment that is added here is the SHA-256 of the file without it.
_NO_COMMENT, _LABEL = b"\0\0", b"sha256:"
_SIZE = len(_LABEL) + 64


def write_torch_file(content: Any, path: str | Path) -> None:
    """Write ``torch.save(content, path)`` with a checksum, which ``read_torch_file`` verifies.

    torch does not verify the CRCs of a ZIP file, so it loads most files with a flipped bit. The
    checksum is the ZIP comment ``sha256:HEX``: the SHA-256 of the file as torch wrote it. Any
    program that reads ``torch.save``'s files or ZIP files reads the file as before.
    """
    with open(path, "wb") as file:
        digest = hashlib.sha256()

        class Hashed:
            def write(self, data: bytes) -> int:
                digest.update(data)
                return file.write(data)

            def flush(self) -> None:
                file.flush()

        torch.save(content, Hashed())  # pyright: ignore[reportArgumentType]  (needs no more)
        file.seek(-len(_NO_COMMENT), os.SEEK_END)
        file.write(struct.pack("<H", _SIZE) + _LABEL + digest.hexdigest().encode())


def has_checksum(path: str | Path) -> bool:
    """Return whether the file was written by ``write_torch_file``."""
    with open(path, "rb") as file:
        return _stored_checksum(file) is not None


def _stored_checksum(file: IO[bytes]) -> bytes | None:
    size = _SIZE + len(_NO_COMMENT)
    if file.seek(0, os.SEEK_END) < size:
        return None
    file.seek(-size, os.SEEK_END)
    tail = file.read()
    return tail[-64:] if tail.startswith(struct.pack("<H", _SIZE) + _LABEL) else None


def _has_damage(file: IO[bytes]) -> bool:
    """Return whether the file has a checksum that does not match."""
    stored = _stored_checksum(file)
    if stored is None:
        return False
    remaining, digest = file.tell() - _SIZE - len(_NO_COMMENT), hashlib.sha256()
    file.seek(0)
    while remaining and (block := file.read(min(remaining, 2**20))):
        digest.update(block)
        remaining -= len(block)
    digest.update(_NO_COMMENT)
    return digest.hexdigest().encode() != stored


def read_torch_file(path: str | Path) -> Any:
    """Return ``torch.load(path, map_location="cpu", weights_only=True)``, or a safetensors file's.

    Raises:
        UserError: the reason in one line, if the file cannot be read, was not written by
            ``torch.save``, has objects other than tensors and plain Python types, or differs from
            its checksum.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(24)
            damaged = _has_damage(file)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, expected a file written by torch.save") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if damaged:
        raise UserError(f"{path}: is damaged: its content does not match its checksum")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # hints about unsafe pickles, which the error covers
            return torch.load(path, map_location="cpu", weights_only=True)
    # A file that is not a pickle can fail with any exception: the unpickler reads the letters of a
    # text file as instructions.
    except Exception as error:
        if head[8:10] == b'{"':
            return _read_safetensors(path)
        raise UserError(f"{path}: {_reason(path, head, error)}") from error


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(f"{path}: requires safetensors: pip install safetensors") from None
    try:
        return load_file(path)
    except Exception as error:  # SafetensorError and others
        raise UserError(f"{path}: is not a whole safetensors file ({error})") from error


def _reason(path: Path, head: bytes, error: Exception) -> str:
    message = str(error)
    unsafe = re.search(r"GLOBAL (\S+) was not an allowed global", message)
    if unsafe:
        return (
            f"contains a Python object ({unsafe[1]}), which could run code when loaded; to convert "
            f"a file that you trust: {_conversion(path)}"
        )
    if "TorchScript" in message:
        return (
            "is a TorchScript program, expected a state dict: "
            "torch.save(torch.jit.load(file).state_dict(), new_file)"
        )
    if not head:
        return "is empty, expected a file written by torch.save"
    if head.startswith(b"PK") and "central directory" in message or "unexpected EOF" in message:
        return "is truncated or damaged"
    return f"was not written by torch.save (it begins with {head!r})"


def _conversion(path: Path) -> str:
    """Return a command that saves the state dicts in a file of ``torch.save``, and nothing else."""
    source, target = (json.dumps(str(name)) for name in (path, path.with_suffix(".weights.pt")))
    code = (
        f'import torch; x = torch.load({source}, "cpu", weights_only=False); '
        's = lambda v: v.state_dict() if hasattr(v, "state_dict") else v; '
        "w = lambda v: isinstance(v, dict) and all(map(torch.is_tensor, v.values())); x = s(x); "
        f"torch.save(x if w(x) else {{k: s(v) for k, v in x.items() if w(s(v))}}, {target})"
    )
    return f"python -c {shlex.quote(code)}"
