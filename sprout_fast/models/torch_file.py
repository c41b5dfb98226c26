"""Read files written by ``torch.save`` without running code in them."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import torch

from sprout_fast.errors import UserError


def read_torch_file(path: str | Path) -> Any:
    """Return ``torch.load(path, map_location="cpu", weights_only=True)``.

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
        raise UserError(f"{path}: {_reason(head, error)}") from error


def _reason(head: bytes, error: Exception) -> str:
    message, wanted = str(error), "expected a state dict: torch.save(model.state_dict(), file)"
    unsafe = re.search(r"GLOBAL (\S+) was not an allowed global", message)
    if unsafe:
        return f"contains a Python object ({unsafe[1]}), which could run code when loaded; {wanted}"
    if "TorchScript" in message:
        return f"is a TorchScript program; {wanted}"
    if not head:
        return "is empty, expected a file written by torch.save"
    if head.startswith(b"PK") and "central directory" in message or "unexpected EOF" in message:
        return "is truncated or damaged"
    return f"was not written by torch.save (it begins with {head!r})"
