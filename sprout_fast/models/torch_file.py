"""Read files written by ``torch.save`` without running code in them."""

from __future__ import annotations

import json
import re
import shlex
import warnings
from pathlib import Path
from typing import Any

import torch

from sprout_fast.errors import UserError


def read_torch_file(path: str | Path) -> Any:
    """Return ``torch.load(path, map_location="cpu", weights_only=True)``, or a safetensors file's.

    Raises:
        UserError: the reason in one line, if the file cannot be read, was not written by
            ``torch.save``, or has objects other than tensors and plain Python types.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(24)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, expected a file written by torch.save") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
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
