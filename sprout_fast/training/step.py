"""Forward pass, loss, backward pass, and an optimizer step after the last accumulated batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from sprout_fast.errors import FatalError
from sprout_fast.training.checkpoint import listed, nonfinite
from sprout_fast.training.meter import Meter
from sprout_fast.training.optim import MovingAverage
from sprout_fast.training.parallel import like, load_state

# A loss scale of 2**16 is then 6e-5, below which float16 gradients have no use for it.
MOST_SKIPPED_STEPS = 30
AMP_DTYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Autocast(nn.Module):
    """``model`` under autocast to ``dtype``; None means float32."""

    def __init__(self, model: nn.Module, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.autocast(inputs.device.type, self.dtype, enabled=self.dtype is not None):
            return self.model(inputs)


@dataclass(eq=False, repr=False)
class OptimizeStep:
    """The training step that the loop passes to a method: :class:`sprout_fast.methods.Optimize`.

    Args:
        model: maps normalized images, float [B,3,H,W], to logits [B,K]; plain, compiled, sharded,
            or in DistributedDataParallel.
        network: maps images in [0,1] to logits, with the same weights, outside of
            DistributedDataParallel.
        optimizer, scheduler: stepped together.
        scaler: loss scaling for fp16; pass a disabled one otherwise.
        accumulation_steps: calls whose gradients are averaged for one optimizer step.
        amp_dtype: autocast type of the model; None means float32. The loss is outside of autocast:
            it accepts logits of any type and computes in float32.
        memory_format: memory format of the model's inputs.
        clip_grad: norm that the gradients of all parameters are scaled down to, or None.
        ema: moving average of the weights, updated after each optimizer step.
        detect_anomaly: check loss and gradients of each step, which waits for the device.

    Attributes:
        steps: optimizer steps of the whole run, with those that the scaler skipped.
        last_lr: learning rate of the last step.
        meter: sums of the current epoch, or None.
    """

    model: nn.Module
    network: nn.Module
    optimizer: Optimizer
    scheduler: LambdaLR
    scaler: GradScaler
    _: KW_ONLY
    accumulation_steps: int = 1
    amp_dtype: torch.dtype | None = None
    memory_format: torch.memory_format = torch.channels_last
    clip_grad: float | None = None
    ema: MovingAverage | None = None
    detect_anomaly: bool = False

    def __post_init__(self) -> None:
        self._trained = Autocast(self.model, self.amp_dtype)
        self.network = Autocast(self.network, self.amp_dtype)
        self.steps, self.last_lr = 0, 0.0
        self.meter: Meter | None = None
        self._calls, self._skipped, self._skipped_in_a_row = 0, 0, 0
        # Whether the scaler skipped the last step: on the host, and when it is there on CUDA.
        self._verdict: tuple[Tensor, torch.cuda.Event | None] | None = None
        self._overflow: Tensor | bool = False
        self.optimizer.register_step_pre_hook(self._before_step)

    @property
    def between_steps(self) -> bool:
        """Whether no gradient is pending, so that a checkpoint can be saved."""
        return self._calls % self.accumulation_steps == 0

    @property
    def lr(self) -> float:
        """Learning rate of the next optimizer step."""
        self._settle()
        return self.optimizer.param_groups[0]["lr"]

    @property
    def lr_factor(self) -> float:
        """Learning rate of the next optimizer step as a fraction of the schedule's peak."""
        self._settle()
        return self.scheduler.lr_lambdas[0](self.scheduler.last_epoch)

    def upcoming_rates(self, steps: int) -> list[list[float]]:
        """Return the learning rate of each parameter group in each of the next optimizer steps,
        followed by what :attr:`lr_factor` is then."""
        self._settle()
        rates = []
        for step in range(self.scheduler.last_epoch, self.scheduler.last_epoch + steps):
            factors = [factor(step) for factor in self.scheduler.lr_lambdas]
            pairs = zip(self.scheduler.base_lrs, factors, strict=True)
            rates.append([*(float(base * factor) for base, factor in pairs), factors[0]])
        return rates

    @property
    def skipped(self) -> int:
        """Number of ``steps`` that the scaler skipped, since a gradient was not finite."""
        self._settle()
        return self._skipped

    @torch.no_grad()
    def logits(self, inputs: Tensor) -> Tensor:
        """Return logits of normalized inputs, in the model's current mode and without gradients."""
        return self._forward(inputs)

    def __call__(
        self, inputs: Tensor | Sequence[Tensor], target: Any, loss: Callable[[Any, Any], Tensor]
    ) -> Tensor:
        value, logits = self.launch(inputs, target, loss)
        self.count(value, logits, target)
        return value

    def launch(
        self, inputs: Tensor | Sequence[Tensor], target: Any, loss: Callable[[Any, Any], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Do the part of a step that is computed on the device.

        Returns:
            the loss and the first logits, detached.
        """
        complete = (self._calls + 1) % self.accumulation_steps == 0
        with self._gradient_exchange(complete):
            single = isinstance(inputs, Tensor)
            logits = [self._forward(batch) for batch in ([inputs] if single else inputs)]
            value = loss(logits[0] if single else tuple(logits), target)
            parts = self.accumulation_steps
            self.scaler.scale(value if parts == 1 else value / parts).backward()
        if self.detect_anomaly:
            self._check_step(value)
        if complete:
            self._settle()  # before the learning rate is used
            if self.clip_grad is not None:
                self.scaler.unscale_(self.optimizer)  # a norm of scaled gradients means nothing
                groups = self.optimizer.param_groups
                parameters = [p for group in groups for p in group["params"]]
                nn.utils.clip_grad_norm_(parameters, self.clip_grad)
            self._overflow = True  # a scaler that skips the step may not call the optimizer
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad()
        return value.detach(), logits[0].detach()

    def count(self, loss: Tensor, logits: Tensor, target: Any) -> None:
        """Do the part of a step that is the host's: counts, schedule, averages and meter."""
        self._calls += 1
        complete = self.between_steps
        if complete:
            self.last_lr = self.lr
            self.steps += 1
            if self.scaler.is_enabled():
                self._await_verdict()
            else:
                self._applied()
        if self.meter is not None:
            # The last argument is the number of this batch's step, from 1.
            self.meter.add(loss, logits, target, self.steps + (not complete))

    def _check_step(self, loss: Tensor) -> None:
        step = self.steps + 1
        if not loss.isfinite():
            raise FatalError(f"training loss is not finite at step {step}")
        named = dict(self.network.named_parameters())  # without the prefix of the processes' model
        gradients = {name: p.grad for name, p in named.items() if p.grad is not None}
        # The scaler expects some that are not, and skips the step.
        if not self.scaler.is_enabled() and (bad := nonfinite(gradients)):
            raise FatalError(f"gradients not finite at step {step}: {listed(bad)}")

    def _before_step(self, optimizer: Optimizer, *arguments: Any) -> None:
        # The scaler tells a fused optimizer by this attribute; others it calls if all is finite.
        self._overflow = getattr(optimizer, "found_inf", False)

    def _await_verdict(self) -> None:
        overflow = torch.as_tensor(self._overflow)
        event = torch.cuda.Event() if overflow.is_cuda else None
        self._verdict = overflow.to("cpu", non_blocking=True), event
        if event is not None:
            event.record()
        # The averages need it before the next forward pass, which changes batch norm statistics.
        # Otherwise it is read when the next step is complete, and the device has arrived there.
        if self.ema is not None:
            self._settle()

    def _settle(self) -> None:
        """Count the last step as skipped or applied, if that is still open."""
        if self._verdict is None:
            return
        (overflow, event), self._verdict = self._verdict, None
        if event is not None:
            event.synchronize()
        if not overflow:
            self._skipped_in_a_row = 0
            self._applied()
            return
        self._skipped, self._skipped_in_a_row = self._skipped + 1, self._skipped_in_a_row + 1
        if self._skipped_in_a_row >= MOST_SKIPPED_STEPS:
            raise FatalError(
                f"the loss scaler skipped each of the {MOST_SKIPPED_STEPS} optimizer steps up to"
                f" step {self.steps}: the gradients are not finite at a loss scale of"
                f" {self.scaler.get_scale():.2g} either; use amp bf16 or none"
            )

    def _applied(self) -> None:
        self.scheduler.step()
        if self.ema is not None:
            self.ema.update()

    def _forward(self, inputs: Tensor) -> Tensor:
        return self._trained(inputs.contiguous(memory_format=self.memory_format))

    def optimizer_state(self) -> dict[int, tuple[Tensor, dict[str, Tensor]]]:
        """Return parameters and their momenta and the like, by their numbers in the state dict."""
        ordered = [p for group in self.optimizer.param_groups for p in group["params"]]
        state = self.optimizer.state
        return {i: (p, state[p]) for i, p in enumerate(ordered) if p in state}

    def restore(self, content: Mapping[str, Any], step: int, skipped: int = 0) -> None:
        """Restore the optimizer's state and loss scale from a checkpoint, to resume at ``step``.

        Learning rate, momentum factor and weight decay remain those of this run, as does the memory
        format of the buffers, which the fused kernels require to be that of the weights.
        """
        stored = content["optimizer"]["state"]
        for number, (_, state) in self.optimizer_state().items():
            for name, tensor in state.items() if number in stored else ():
                tensor.copy_(like(tensor, stored[number][name]))
        groups = zip(
            self.optimizer.param_groups, content["optimizer"]["param_groups"], strict=False
        )
        for group, before in groups:
            if "step" in before:  # timm's LAMB counts there
                group["step"] = before["step"].clone()
        applied = step - skipped
        own = self.scheduler.state_dict() | {"last_epoch": applied, "_step_count": applied + 1}
        self.scheduler.load_state_dict(own)
        groups = zip(self.optimizer.param_groups, self.scheduler.lr_lambdas, strict=True)
        for group, factor in groups:
            group["lr"] = group["initial_lr"] * factor(applied)
        first, factor = self.optimizer.param_groups[0], self.scheduler.lr_lambdas[0]
        self.last_lr = first["initial_lr"] * factor(max(applied - 1, 0))
        if self.scaler.is_enabled() and content["scaler"]:
            self.scaler.load_state_dict(content["scaler"])
        if self.ema is not None and applied:
            # A run that had no averages before starts them at its weights.
            load_state(self.ema.module, content["ema"] or content["model"])
            self.ema.updates = applied
        self.steps, self._skipped = step, skipped

    def _gradient_exchange(self, now: bool) -> contextlib.AbstractContextManager[None]:
        """Return a context in which processes exchange gradients only if ``now``."""
        model = getattr(self.model, "_orig_mod", self.model)
        if isinstance(model, DistributedDataParallel) and not now:
            return model.no_sync()
        if hasattr(model, "set_requires_gradient_sync"):  # of FSDP
            model.set_requires_gradient_sync(now)  # pyright: ignore[reportCallIssue]
        return contextlib.nullcontext()
