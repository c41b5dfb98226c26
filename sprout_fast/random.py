"""State of the random streams, an explicit argument of every op that draws random numbers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import get_worker_info


class PhiloxState(nn.Module):
    """Random state of a run: the buffer ``(seed, offset)``, int64 [2], and a rank's ``first_row``.

    Every op that draws random numbers accepts the triple ``(seed, offset, first_row)`` as
    ``rng_state``, int64 [3], and draws the same numbers for the same triple on every device.
    :meth:`next` advances the state on the device, so it can be captured in CUDA graphs and compiled
    graphs, and a run resumes exactly from its ``state_dict``. ``first_row`` is no buffer:
    DistributedDataParallel would broadcast it, and all ranks would draw the same numbers. Ops that
    advance the state themselves accept ``state`` and ``first_row``, int64 [1].

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
    #: ``(0, 0, first_row)``, for calls whose op requires a state but draws nothing.
    unread: Tensor

    def __init__(
        self, seed: int, device: torch.device | str | None = None, first_row: int = 0
    ) -> None:
        super().__init__()
        if first_row < 0:
            raise ValueError(f"first_row must be at least 0, got {first_row}")
        seed = (seed + (1 << 63)) % (1 << 64) - (1 << 63)  # any integer, as int64
        state = torch.tensor([seed, 0], dtype=torch.int64, device=device)
        self.register_buffer("state", state)
        self.unread = torch.tensor([0, 0, first_row], dtype=torch.int64, device=device)
        self.first_row = self.unread[2:]

    def current(self) -> Tensor:
        """Return ``(seed, offset, first_row)``, int64 [3]."""
        return torch.cat((self.state, self.first_row))

    def next(self) -> Tensor:
        """Return :meth:`current` for one call, and increment the offset.

        Raises:
            RuntimeError: in a worker process of a DataLoader.
        """
        self.check_process()
        current = self.current()
        self.state[1] += 1
        return current

    def check_process(self) -> None:
        """Raise a RuntimeError in a worker process of a DataLoader, where nothing should draw."""
        if not torch.compiler.is_compiling() and get_worker_info() is not None:
            raise RuntimeError(
                "a random state is advanced in a DataLoader's worker process: each worker has a "
                "copy of it, so that all would draw the same numbers; call the module on the "
                "batches that the DataLoader returns"
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PhiloxState:
        super()._apply(fn, recurse)
        self.unread = fn(self.unread)
        self.first_row = self.unread[2:]
        return self

    def extra_repr(self) -> str:
        return f"seed, offset, first_row = {self.current().tolist()}"
