"""Networks that do not fit: weights sharded over the processes, and recomputed activations."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sprout_fast.distributed import World

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def blocks(model: nn.Module) -> list[nn.Module]:
    """Return the network's repeated blocks: ResNet's bottlenecks, a transformer's layers.

    A block is a member of a Sequential, ModuleList or ModuleDict, has modules of its own but is
    none of these containers, and another member of any of them has its class. Where blocks contain
    blocks, as stages do, only the inner ones count.

    >>> from torchvision.models import resnet50, vit_b_16
    >>> len(blocks(resnet50())), len(blocks(vit_b_16()))
    (16, 12)
    """
    members = [
        child
        for container in model.modules()
        if isinstance(container, _CONTAINERS)
        for child in container.children()
        if next(child.children(), None) is not None and not isinstance(child, _CONTAINERS)
    ]
    count = Counter(map(type, members))
    repeated = {member: None for member in members if count[type(member)] > 1}
    return [
        block
        for block in repeated
        if not any(inner in repeated for inner in block.modules() if inner is not block)
    ]


def checkpoint_activations(model: nn.Module) -> int:
    """Make each of the ``blocks`` keep only its input for backward and compute the rest again.

    Outputs, gradients, dropout and batch norm's statistics are the same as without it, at the cost
    of a second forward pass.

    Returns:
        the number of blocks.
    """
    found = blocks(model)
    for block in found:
        options: dict[str, Any] = {"context_fn": functools.partial(_contexts, block)}
        # Not a wrapper module, which would rename the parameters within.
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False, **options)
    return len(found)


def _contexts(block: nn.Module) -> tuple[contextlib.AbstractContextManager[None], ...]:
    return contextlib.nullcontext(), _ConstantStatistics(block)


class _ConstantStatistics(contextlib.AbstractContextManager):
    """Keeps batch norm's statistics inside, without another computation of the output.

    A momentum of 0 keeps means and variances, and the count goes into a copy. A norm that kept no
    statistics for a while would save other tensors for backward than it did before.
    """

    def __init__(self, block: nn.Module) -> None:
        self._norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]

    def __enter__(self) -> None:
        self._before = [(norm.momentum, norm.num_batches_tracked) for norm in self._norms]
        for norm in self._norms:
            norm.momentum = 0.0
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked = norm.num_batches_tracked.clone()

    def __exit__(self, *error: object) -> None:
        for norm, (momentum, count) in zip(self._norms, self._before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def shard(model: nn.Module, world: World) -> nn.Module:
    """Shard ``model`` over the processes by FSDP2, a block at a time, on the world's device.

    Weights, gradients and momenta then are DTensors; a block's weights are whole only during its
    forward and its backward pass. Names, and the mean of the gradients, are those of
    DistributedDataParallel. FSDP shards contiguous weights only.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    model.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    # The rest too is sharded again after forward: weights that a pass without backward left whole
    # would still have their old values after the optimizer's step.
    for module in [*blocks(model), model]:
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    return model


def is_sharded(model: nn.Module) -> bool:
    """Return whether :func:`shard` was applied to ``model``."""
    return any(hasattr(parameter, "to_local") for parameter in model.parameters())


@contextlib.contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Give each process all weights of a sharded ``model`` inside.

    Processes can then evaluate different numbers of batches, or attack them with different numbers
    of steps, without waiting for each other.
    """
    sharded: list[Any] = [m for m in model.modules() if hasattr(m, "set_reshard_after_forward")]
    try:
        for module in sharded:
            module.set_reshard_after_forward(False, recurse=False)
            module.set_reshard_after_backward(False, recurse=False)
            module.unshard()
        yield
    finally:
        for module in sharded:
            module.reshard()
            module.set_reshard_after_forward(True, recurse=False)
            module.set_reshard_after_backward(True, recurse=False)


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a sharded tensor, or the tensor itself."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # pyright: ignore


def gathered(value: Any, keep: bool) -> Any:
    """Return ``value`` with whole tensors on the host in place of sharded ones.

    All processes call it in the same order; those that do not ``keep`` a whole tensor get an empty
    one.
    """
    if isinstance(value, Tensor) and hasattr(value, "full_tensor"):
        whole = value.full_tensor()  # pyright: ignore[reportAttributeAccessIssue]
        return whole.cpu() if keep else whole.new_empty(0)
    if isinstance(value, Mapping):
        return {key: gathered(item, keep) for key, item in value.items()}
    return [gathered(item, keep) for item in value] if isinstance(value, list) else value


def load_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict of whole tensors into ``model``, sharded or not."""
    if not is_sharded(model):
        model.load_state_dict(state)
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(model, dict(state), options=StateDictOptions(full_state_dict=True))


def like(parameter: Tensor, whole: Tensor) -> Tensor:
    """Return ``whole``, which all processes have, on the device of ``parameter`` and as sharded."""
    if not hasattr(parameter, "to_local"):
        return whole
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = parameter.device_mesh, parameter.placements  # pyright: ignore
    return distribute_tensor(whole.to(mesh.device_type), mesh, placements, src_data_rank=None)
