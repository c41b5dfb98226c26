"""What the ops' autograd registrations share."""

from __future__ import annotations

import torch


def refuse_second_derivative(op: str) -> None:
    """Make differentiating ``sprout_fast::<op>``, a backward op, a named error."""

    def backward(ctx, *grads):
        raise RuntimeError(
            f"sprout_fast::{op.removesuffix('_backward')} has no second derivative: its backward "
            "was asked to be differentiated (create_graph=True)"
        )

    torch.library.register_autograd(f"sprout_fast::{op}", backward)
