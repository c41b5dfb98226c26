"""Time what SPROUT adds to natural training, without the network, whose noise would hide it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sprout_fast.methods import Method
from sprout_fast.training.graph import captured, side_stream
from training_benchmark.malloc import set_malloc
from training_benchmark.rounds import Clock
from training_benchmark.trainee import Trainee

# Minimum seconds of one turn, and of all turns together.
_TURN, _ALL = 0.005, 5.0
_CALLS = 20  # in a CUDA graph, so that the host is ahead of the device


def own_part(
    trainee: Trainee, method: Method, images: Tensor, labels: Tensor
) -> Callable[[], None]:
    """Return a step without the network: mixer, loss with its gradient to the logits, beta."""
    logits = torch.randn(
        len(labels),
        trainee.setting.num_classes,
        dtype=trainee.setting.dtype,
        device=trainee.device,
        requires_grad=True,
    )

    def run() -> None:
        _, target = method.mixer(images, labels)
        logits.grad = None
        method.loss(logits, target).backward()

    return run


def replays(call: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Return a function that replays a CUDA graph of ``_CALLS`` calls."""
    with side_stream(device):
        for _ in range(3):
            call()

    def several() -> None:
        for _ in range(_CALLS):
            call()

    return captured(several).replay


def measure_added(
    trainee: Trainee,
    methods: dict[str, Method],
    images: Tensor,
    labels: Tensor,
    seconds: float = _ALL,
) -> dict[str, list[float]]:
    """Return seconds per call of each method's ``own_part``; the methods take turns.

    On the CPU, outputs go to memory that has been written before. On a GPU, CUDA graphs of several
    calls are replayed: launched one by one, such short kernels would measure the host.

    Args:
        trainee: provides the number of classes, dtype and device.
        methods: by name.
        images, labels: one batch, uint8 [B,3,H,W] and int64 [B].
        seconds: total time; each method gets at least 3 turns.
    """
    device = trainee.device
    calls = {name: own_part(trainee, m, images, labels) for name, m in methods.items()}
    clock, each = Clock(trainee.world), 1
    if trainee.capturable:
        calls, each = {name: replays(call, device) for name, call in calls.items()}, _CALLS

    def turn(call: Callable[[], None], repeats: int) -> float:
        start = clock()
        for _ in range(repeats):
            call()
        return (clock() - start) / (repeats * each)

    if device.type == "cpu":
        # Page faults on fresh memory would cost both the same and hide the difference.
        set_malloc("warm", 4 * images.numel() * trainee.setting.dtype.itemsize)
    try:
        fastest = min([turn(call, 2) for call in calls.values()])
        repeats = max(1, round(_TURN / (each * fastest)))
        found: dict[str, list[float]] = {name: [] for name in calls}
        end = clock() + seconds
        while clock() < end or any(len(turns) < 3 for turns in found.values()):
            for name, call in calls.items():
                found[name].append(turn(call, repeats))
        return found
    finally:
        if device.type == "cpu":
            set_malloc("glibc")
