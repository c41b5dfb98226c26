"""A check shared by the ops' fake implementations."""

from __future__ import annotations

from torch import Tensor


def check_one_device(op: str, **arguments: object) -> None:
    """Raise if the tensors among ``arguments`` are not all on the device of the first one.

    One meta tensor sends the whole call to the fake implementation instead of the kernel and its
    checks; a result on the op's device would then be uninitialized memory.
    """
    (first, like), *others = [(n, a) for n, a in arguments.items() if isinstance(a, Tensor)]
    for name, tensor in others:
        if tensor.device != like.device:
            raise RuntimeError(
                f"sprout_fast::{op}: {name} must be on the device of {first} ({like.device}), got "
                f"{tensor.device}"
            )
