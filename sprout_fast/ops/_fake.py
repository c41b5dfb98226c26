"""What the ops' fakes share."""

from __future__ import annotations

from torch import Tensor


def check_one_device(op: str, **tensors: Tensor | None) -> None:
    """Refuse tensors of several devices, the first of which is the op's.

    One meta tensor among others sends the call to the fake instead of to the kernel with its
    checks: a result on the op's device would then be memory that nobody wrote.
    """
    (first, like), *others = tensors.items()
    for name, tensor in others:
        if tensor is not None and tensor.device != like.device:
            raise RuntimeError(
                f"sprout_fast::{op}: {name} must be on the device of {first} ({like.device}), got "
                f"{tensor.device}"
            )
