"""Divide the time of a method's step into parts.

Module hooks and a wrapper around the method's ``optimize`` mark the boundaries, so the step itself
is unchanged. On CUDA each boundary synchronizes with the device, so the parts add up to more than
an undisturbed step, whose launches are asynchronous.
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

#: In order of execution. "mixer" is normalization, noise and Mixup; "loss" includes SPROUT's beta;
#: "backward" includes that of the loss; "optimizer" includes zeroing gradients, the learning rate
#: schedule and logging; "attack" is everything else, which without an attack is the time that
#: malloc needs to free the batch.
PARTS: tuple[str, ...] = ("loader", "attack", "mixer", "forward", "loss", "backward", "optimizer")


class PartsClock:
    """Accumulates seconds by part; ``switch`` ends the current part and starts another."""

    def __init__(self, device: torch.device, now: Callable[[], float] = time.perf_counter) -> None:
        self._device, self._now = device, now
        self.restart("loader")

    def restart(self, part: str) -> None:
        """Reset all parts to 0 and start ``part``."""
        synchronize(self._device)
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.part, self._since = part, self._now()

    def switch(self, part: str) -> str:
        """Start ``part`` and return the one that ended."""
        synchronize(self._device)
        now, ended = self._now(), self.part
        self.seconds[ended] += now - self._since
        self.part, self._since = part, now
        return ended


class TimedOptimize:
    """A ``sprout_fast.methods.Optimize`` that switches ``clock`` to forward, loss and backward."""

    def __init__(self, optimize: OptimizeStep, clock: PartsClock) -> None:
        self._optimize, self._clock = optimize, clock
        self.network, self.logits = optimize.network, optimize.logits

    @property
    def lr(self) -> float:
        return self._optimize.lr

    @property
    def lr_factor(self) -> float:
        return self._optimize.lr_factor

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
    """Time a method's parts in a context, with hooks on its mixers and on the optimizer."""
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
    """Return seconds by part for ``steps`` steps of each method; the methods take turns."""
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
