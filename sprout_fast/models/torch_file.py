"""Read a file that `torch.save` wrote, without running what is in it."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import torch

from sprout_fast.errors import UserError


def read_torch_file(path: str | Path) -> Any:
    """`torch.load(path, map_location="cpu", weights_only=True)` with one-line errors.

    Raises:
        UserError: no such file, a folder, unreadable, truncated, not a torch file, or one that
            holds objects other than tensors and plain Python types.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(24)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, takes a file that torch.save wrote") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's hints about foreign pickles; we say our own
            return torch.load(path, map_location="cpu", weights_only=True)
    # A file that is no pickle can fail in the unpickler with any exception: a text file's letters
    # are read as its instructions.
    except Exception as error:
        raise UserError(f"{path}: {_reason(head, error)}") from error


def _reason(head: bytes, error: Exception) -> str:
    message = str(error)
    unsafe = re.search(r"GLOBAL (\S+) was not an allowed global", message)
    if unsafe:
        return (
            f"holds a Python object ({unsafe[1]}), which could run code when loaded; "
            "takes a state dict: torch.save(model.state_dict(), file)"
        )
    if "TorchScript" in message:
        return "is a TorchScript program; takes a state dict: torch.save(model.state_dict(), file)"
    if not head:
        return "is empty, takes a file that torch.save wrote"
    if head.startswith(b"PK") and "central directory" in message or "unexpected EOF" in message:
        return "is truncated or damaged"
    return f"is not a file that torch.save wrote (it begins with {head!r})"
