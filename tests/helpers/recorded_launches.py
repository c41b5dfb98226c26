"""What a step computes with, recorded: whether a CUDA graph of it would serve for another batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# They read values from the device, or their results have a size that depends on values.
READING = (
    *("aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero", "aten::nonzero"),
    *("aten::masked_select", "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive"),
    *("aten::bincount", "aten::repeat_interleave", "aten::allclose"),
)


class Launches(TorchDispatchMode):
    """Records each op, its numbers, and where each of its tensors is from.

    A tensor made within the step is known by its place in the order of such tensors, and any other
    by its address. Two steps with equal ``log``s can be replays of one graph: what differs between
    batches and steps is then in memory that both read, and nothing is in Python.

    Raises:
        AssertionError: an op that reads values from the device, or copies between devices.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple[str, list[Any]]] = []
        self._made: dict[Any, int] = {}
        self._others: set[Any] = set()
        self._kept: list[Tensor] = []  # an address must not be used twice

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        leaves = tree_leaves((args, kwargs or {}))
        name = func.name()
        assert name.split(".")[0] not in READING, f"{name} reads from the device"
        masks = [leaf for leaf in leaves[1:] if isinstance(leaf, Tensor)]
        if name.startswith("aten::index"):
            assert all(mask.dtype != torch.bool for mask in masks), f"{name} reads a mask"
        self.log.append((name, [self._origin(leaf) for leaf in leaves]))
        out = func(*args, **(kwargs or {}))
        devices = {t.device.type for t in [*leaves, *tree_leaves(out)] if isinstance(t, Tensor)}
        assert len(devices) <= 1, f"{name} copies between {devices}"
        for tensor in (leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)):
            self._kept.append(tensor)
            if (address := _address(tensor)) not in self._others:
                self._made.setdefault(address, len(self._made))
        return out

    def _origin(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf if isinstance(leaf, (bool, int, float, str)) else str(leaf)
        address = _address(leaf)
        if address not in self._made:
            self._others.add(address)
        shape = (leaf.dtype, tuple(leaf.shape), leaf.stride(), leaf.storage_offset())
        return (*shape, self._made.get(address, address))


def _address(tensor: Tensor) -> Any:
    return tensor.untyped_storage()._cdata
