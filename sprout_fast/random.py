"""State of the random streams, an explicit argument of every op that draws random numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PhiloxState(nn.Module):
    """Random state of a run: the int64 [3] buffer ``(seed, offset, first_row)``.

    Every op that draws random numbers accepts such a triple as ``rng_state`` and draws the same
    numbers for the same triple on every device. :meth:`next` advances the state on the device, so
    it can be captured in CUDA graphs and compiled graphs, and a run resumes exactly from its
    ``state_dict``.

    Args:
        seed: any integer; its lowest 64 bits are used.
        device: device of the ops that use the state.
        first_row: global index of this rank's first row of a batch. Ranks with ``first_row = rank *
            batch_size`` draw disjoint numbers: together, those that one rank draws for all rows.

    Raises:
        ValueError: ``first_row`` is negative.

    Example:
        >>> state = PhiloxState(seed=7)
        >>> state.next(), state.next()
        (tensor([7, 0, 0]), tensor([7, 1, 0]))
    """

    state: Tensor

    def __init__(
        self, seed: int, device: torch.device | str | None = None, first_row: int = 0
    ) -> None:
        super().__init__()
        if first_row < 0:
            raise ValueError(f"first_row must be at least 0, got {first_row}")
        seed = (seed + (1 << 63)) % (1 << 64) - (1 << 63)  # any integer, as int64
        state = torch.tensor([seed, 0, first_row], dtype=torch.int64, device=device)
        self.register_buffer("state", state)

    def next(self) -> Tensor:
        """Return a copy of the state for one call, int64 [3], and increment the offset."""
        current = self.state.clone()
        self.state[1] += 1
        return current

    def extra_repr(self) -> str:
        return f"seed, offset, first_row = {self.state.tolist()}"
