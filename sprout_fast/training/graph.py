"""The training step as a CUDA graph: captured after some steps, then replayed for every batch."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sprout_fast.distributed import World
from sprout_fast.errors import UserError
from sprout_fast.methods import Method
from sprout_fast.training.config import TrainConfig
from sprout_fast.training.step import OptimizeStep

# Batches before the capture, in which cuDNN chooses algorithms, torch.compile compiles, and states
# that are created at their first use come to be. PyTorch requires 11 of DistributedDataParallel.
_WARMUP, _PARALLEL_WARMUP = 3, 11

# PyTorch requires "0" to capture a collective; read when the processes join.
NCCL_ERROR_HANDLING = "TORCH_NCCL_ASYNC_ERROR_HANDLING"

# Modes of torch.compile that capture graphs of their own.
_CAPTURING_MODES = ("reduce-overhead", "max-autotune")


def check_capturable(
    config: TrainConfig, method: Method, world: World, environment: os._Environ | dict = os.environ
) -> None:
    """Check that the training step of a resolved ``config`` can be captured into a CUDA graph.

    Raises:
        UserError: it cannot; the message names the option, method or device at fault.
    """
    reason = None
    if config.accumulation_steps > 1:
        reason = (
            f"got accumulation_steps {config.accumulation_steps}, expected 1: every batch replays"
            " the same graph, with a step of optimizer and beta"
        )
    elif config.amp == "fp16":
        reason = (
            "got amp fp16, expected bf16 or none: the schedule waits for whether the loss scaler"
            " skipped the step"
        )
    elif config.compile in _CAPTURING_MODES:
        reason = (
            f"got compile {config.compile}, which captures CUDA graphs itself, expected default or"
            " max-autotune-no-cudagraphs"
        )
    elif config.detect_anomaly:
        reason = "excluded by detect_anomaly, which reads the loss and gradients of every step"
    elif config.fsdp:
        reason = "excluded by fsdp, which allocates the weights of each block in every step"
    elif config.activation_checkpointing:
        reason = "excluded by activation_checkpointing, which saves the random state of every block"
    elif method.passes > 1 and config.ema is not None:
        reason = (
            f"excluded by ema with method {method.name}, whose {method.passes} optimizer steps per"
            " batch are one graph: the weights between them cannot be averaged"
        )
    elif not method.capturable:
        reason = f"not supported by method {method.name}, whose step is decided on the host"
    elif world.size > 1 and environment.get(NCCL_ERROR_HANDLING) != "0":
        got = environment.get(NCCL_ERROR_HANDLING, "not set")
        reason = (
            f"needs the environment variable {NCCL_ERROR_HANDLING} to be 0 with several processes,"
            f" got {got}"
        )
    elif world.device.type != "cuda":
        reason = f"needs a GPU, got device {world.device}"
    if reason is not None:
        raise UserError(reason, option="cuda_graph")


class StaticStep:
    """A method's training step that launches the same for every batch, from buffers that stay.

    Batch and learning rates are copied into the buffers by :meth:`load`; :meth:`run` computes with
    them on the device, and :meth:`finish` does the host's part. A replay of what ``run`` launches
    takes its place. To the method it is the :class:`~sprout_fast.methods.Optimize` of the step.

    Args:
        method: the training method.
        optimize: the training step that the method calls, ``method.passes`` times per batch.

    Raises:
        UserError: the optimizer computes with numbers of the host, which a graph would keep.
    """

    def __init__(self, method: Method, optimize: OptimizeStep) -> None:
        self._method, self._optimize = method, optimize
        self.network, self.logits = optimize.network, optimize.logits
        self._groups: list[dict[str, Any]] = optimize.optimizer.param_groups
        if not all(group.get("fused") or group.get("capturable") for group in self._groups):
            name = type(optimize.optimizer).__name__
            reason = (
                f"got optimizer {name}, whose learning rate is the host's, expected a fused one"
            )
            raise UserError(reason, option="cuda_graph")
        device = self._groups[0]["params"][0].device
        # The fused optimizers read float32. A row per optimizer step of the batch.
        self._numbers = torch.zeros(method.passes, len(self._groups) + 1, device=device)
        self._rates = [tuple(row.unbind()) for row in self._numbers]
        self._batch: tuple[Tensor, Tensor] | None = None
        self._launched: list[tuple[Tensor, Tensor, Any]] = []

    @property
    def _next_rates(self) -> tuple[Tensor, ...]:
        # After the last optimizer step of the batch, the last one's.
        return self._rates[min(len(self._launched), len(self._rates) - 1)]

    @property
    def lr(self) -> Tensor:
        """Learning rate of the next optimizer step of this batch; after the last one, its own."""
        return self._next_rates[0]

    @property
    def lr_factor(self) -> Tensor:
        """The same as a fraction of the schedule's peak."""
        return self._next_rates[-1]

    def load(self, images: Tensor, labels: Tensor) -> None:
        """Copy a batch, and the learning rates of its steps, into the buffers.

        Raises:
            UserError: the batch has another shape than the first one.
        """
        if self._batch is None:
            self._batch = torch.empty_like(images), torch.empty_like(labels)
        for buffer, value in zip(self._batch, (images, labels), strict=True):
            if buffer.shape != value.shape:
                got, expected = list(value.shape), list(buffer.shape)
                reason = f"got a batch {got} after {expected}: a graph has one shape for all"
                raise UserError(reason, option="cuda_graph")
            buffer.copy_(value, non_blocking=True)
        rates = self._optimize.upcoming_rates(self._method.passes)
        self._numbers.copy_(torch.tensor(rates), non_blocking=True)

    def run(self) -> None:
        """Compute the step."""
        assert self._batch is not None
        self._launched = []
        self._method.training_step(self, *self._batch)
        taken, passes = len(self._launched), self._method.passes
        if taken != passes:
            raise RuntimeError(
                f"method {self._method.name}: took {taken} optimizer steps on a batch, expected its"
                f" passes, {passes}"
            )

    def __call__(self, inputs: Any, target: Any, loss: Callable[[Any, Any], Tensor]) -> Tensor:
        with self._device_rates():
            value, logits = self._optimize.launch(inputs, target, loss)
        self._launched.append((value, logits, target))
        return value

    def finish(self) -> None:
        """Count the optimizer steps, and do what follows them."""
        for launched in self._launched:
            self._optimize.count(*launched)

    @contextmanager
    def _device_rates(self) -> Iterator[None]:
        """Let the optimizer read the learning rates from the buffer; schedule and checkpoints keep
        the host's numbers."""
        before = [(group["lr"], group.get("capturable")) for group in self._groups]
        for group, rate in zip(self._groups, self._next_rates[:-1], strict=True):
            group["lr"] = rate
            # Adam and its kin refuse a capture otherwise; if fused, their counts are on the device.
            if "capturable" in group and rate.is_cuda:
                group["capturable"] |= torch.cuda.is_current_stream_capturing()
        try:
            yield
        finally:
            for group, (rate, capturable) in zip(self._groups, before, strict=True):
                group["lr"] = rate
                if capturable is not None:
                    group["capturable"] = capturable


class CapturedStep:
    """A method's training step that is captured into a CUDA graph after some batches.

    The steps before the capture train like all others. What is then replayed is what they launched,
    with the same learning rates, so a resumed run needs no capture at the same step.

    Args:
        method, optimize: as in :class:`StaticStep`; :func:`check_capturable` says which.
        world: this process.

    Attributes:
        warmup: batches that are left before the capture.
    """

    def __init__(self, method: Method, optimize: OptimizeStep, world: World) -> None:
        self._step, self._device = StaticStep(method, optimize), world.device
        self._method, self._optimizer = method, optimize.optimizer
        self.warmup = _WARMUP if world.size == 1 else _PARALLEL_WARMUP
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        """Train on one batch: images uint8 [B, 3, H, W], labels int64 [B].

        Raises:
            UserError: the batch has another shape than the first one, or the step cannot be
                captured, as where a network reads a value from the device.
        """
        self._step.load(images, labels)
        if self.warmup:
            self.warmup -= 1
            with side_stream(self._device):
                self._step.run()
        else:
            if self._graph is None:
                # What is pending would be part of the graph: gradients that others have left, and
                # an exchange between processes, which reading beta completes.
                self._optimizer.zero_grad()
                _ = self._method.beta
                self._graph = captured(self._step.run)
            self._graph.replay()
        self._step.finish()


def captured(call: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """Return a CUDA graph of what ``call`` launches; it has been called on a side stream before.

    Raises:
        UserError: ``call`` does what a graph cannot hold.
    """
    graph = torch.cuda.CUDAGraph()
    # A capture that fails leaves its own stream the current one.
    with torch.cuda.stream(torch.cuda.current_stream()):
        try:
            # Not "global", by which calls of other threads end the capture too: DALI's allocate and
            # free memory, and a checkpoint may be copied meanwhile. A wait for the whole device, as
            # torch.cuda.synchronize is, ends it in either mode.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                call()
        except RuntimeError as error:
            # Ending a capture that has failed fails too.
            reason = str(error.__context__ or error).splitlines()[0]
            message = f"the step cannot be captured: {reason}"
            raise UserError(message, option="cuda_graph") from error
    return graph


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    # One for all steps: memory of one stream is not reused on another.
    return torch.cuda.Stream(device)


@contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """Launch on another stream, between what was launched before and what is launched afterwards.

    Autograd runs backward on the stream of forward; a capture must not involve the default one.
    """
    stream, current = _stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)
