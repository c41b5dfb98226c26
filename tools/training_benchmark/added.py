"""Time what SPROUT adds to natural training, without the network, whose noise would hide it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from sprout_fast.methods import Method
from training_benchmark.malloc import set_malloc
from training_benchmark.rounds import synchronize
from training_benchmark.trainee import Trainee

# Minimum seconds of one turn, and of all turns together.
_TURN, _ALL = 0.005, 5.0


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


def measure_added(
    trainee: Trainee,
    methods: dict[str, Method],
    images: Tensor,
    labels: Tensor,
    seconds: float = _ALL,
) -> dict[str, list[float]]:
    """Return seconds per call of each method's ``own_part``; the methods take turns.

    On the CPU, outputs go to memory that has been written before.

    Args:
        trainee: provides the number of classes, dtype and device.
        methods: by name.
        images, labels: one batch, uint8 [B,3,H,W] and int64 [B].
        seconds: total time; each method gets at least 3 turns.
    """
    device = trainee.device
    calls = {name: own_part(trainee, m, images, labels) for name, m in methods.items()}

    def turn(call: Callable[[], None], repeats: int) -> float:
        synchronize(device)
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        synchronize(device)
        return (time.perf_counter() - start) / repeats

    if device.type == "cpu":
        # Page faults on fresh memory would cost both the same and hide the difference.
        set_malloc("warm", 4 * images.numel() * trainee.setting.dtype.itemsize)
    try:
        repeats = max(1, round(_TURN / min(turn(call, 2) for call in calls.values())))
        found: dict[str, list[float]] = {name: [] for name in calls}
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or any(len(turns) < 3 for turns in found.values()):
            for name, call in calls.items():
                found[name].append(turn(call, repeats))
        return found
    finally:
        if device.type == "cpu":
            set_malloc("glibc")
