"""Where the time of a method's step goes.

The step is not changed for it: hooks and a wrapper of what the method is lent say when one part
ends and the next begins. On CUDA each such border waits for the device, so the parts add up to more
than an undisturbed step, whose launches run ahead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sprout_fast import SproutMixup
from sprout_fast.methods import Method
from sprout_fast.training.step import OptimizeStep
from training_benchmark.rounds import synchronize
from training_benchmark.trainee import Batches

#: In a step's order. "mixer" is normalisation, noise and Mixup; "loss" has SPROUT's beta in it;
#: "backward" is the loss's too; "optimizer" is followed by zeroing gradients, the learning rate's
#: schedule and the log's sums; "attack" is what the method does besides. Where no
#: attack is, it is what malloc takes to give the batch's memory back.
PARTS = ("loader", "attack", "mixer", "forward", "loss", "backward", "optimizer")


class PartsClock:
    """Seconds by part: ``switch`` ends the present one and begins another."""

    def __init__(self, device: torch.device, now: Callable[[], float] = time.perf_counter) -> None:
        self._device, self._now = device, now
        self.restart("loader")

    def restart(self, part: str) -> None:
        """All at 0, and ``part`` begins."""
        synchronize(self._device)
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.part, self._since = part, self._now()

    def switch(self, part: str) -> str:
        """Begin ``part``; returns the one that ended."""
        synchronize(self._device)
        now, ended = self._now(), self.part
        self.seconds[ended] += now - self._since
        self.part, self._since = part, now
        return ended


class TimedOptimize:
    """`sprout_fast.methods.Optimize` that tells ``clock`` of forward, loss and backward."""

    def __init__(self, optimize: OptimizeStep, clock: PartsClock) -> None:
        self._optimize, self._clock = optimize, clock
        self.network, self.logits = optimize.network, optimize.logits

    @property
    def lr(self) -> float:
        return self._optimize.lr

    def __call__(
        self, inputs: Tensor | Sequence[Tensor], target: Any, loss: Callable[[Any, Any], Tensor]
    ) -> Tensor:
        def timed(logits: Any, target: Any) -> Tensor:
            self._clock.switch("loss")
            value = loss(logits, target)
            self._clock.switch("backward")
            return value

        self._clock.switch("forward")
        value = self._optimize(inputs, target, timed)
        self._clock.switch("attack")
        return value


@contextmanager
def timed(method: Method, optimize: OptimizeStep, clock: PartsClock) -> Iterator[TimedOptimize]:
    """Hooks on the method's mixers and on the optimizer, as long as the context lasts."""
    interrupted = []

    def begin_mixer(module: nn.Module, arguments: Any) -> None:
        interrupted.append(clock.switch("mixer"))

    def end_mixer(module: nn.Module, arguments: Any, output: Any) -> None:
        clock.switch(interrupted.pop())

    def begin_optimizer(*_: Any) -> None:
        clock.switch("optimizer")

    with ExitStack() as hooks:
        for module in method.modules():
            if isinstance(module, SproutMixup):
                hooks.callback(module.register_forward_pre_hook(begin_mixer).remove)
                hooks.callback(module.register_forward_hook(end_mixer).remove)
        hooks.callback(optimize.optimizer.register_step_pre_hook(begin_optimizer).remove)
        yield TimedOptimize(optimize, clock)


def measure_parts(
    methods: dict[str, Method],
    optimize: OptimizeStep,
    batches: Batches,
    device: torch.device,
    steps: int,
) -> dict[str, list[dict[str, float]]]:
    """Seconds by part of ``steps`` steps of each method, which take turns."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    clock = PartsClock(device)
    for _ in range(steps):
        for name, method in methods.items():
            with timed(method, optimize, clock) as lent:
                clock.restart("loader")
                images, labels = next(batches)
                clock.switch("attack")
                method.training_step(lent, images, labels)
                clock.switch("loader")
            found[name].append(clock.seconds)
    return found
