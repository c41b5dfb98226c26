"""Forward, loss, backward, and an optimizer step when the accumulation is complete."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from sprout_fast.training.meter import Meter


class OptimizeStep:
    """What the loop lends to a method's ``training_step``, as its ``optimize``.

    Args:
        model: plain, compiled, or in DistributedDataParallel; float [B,3,H,W] -> logits [B,K].
        optimizer, scheduler: stepped together.
        scaler: of the loss, for fp16; a disabled one passes through.
        accumulation_steps: calls whose gradients are averaged for one optimizer step.
        amp_dtype: of autocast around the model; None is float32. The loss is outside: it reads
            logits of any type and computes in float32.
        memory_format: of the model's inputs.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: LambdaLR,
        scaler: GradScaler,
        *,
        accumulation_steps: int = 1,
        amp_dtype: torch.dtype | None = None,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.scaler = scaler
        self.accumulation_steps = accumulation_steps
        self.amp_dtype = amp_dtype
        self.memory_format = memory_format
        self.steps = 0  # optimizer steps of the whole run
        self.lr = 0.0  # of the last step
        self.meter: Meter | None = None  # of the current epoch
        self._calls = 0

    @property
    def between_steps(self) -> bool:
        """Whether no gradient is pending: the state that a checkpoint can hold."""
        return self._calls % self.accumulation_steps == 0

    def __call__(self, inputs: Tensor, target: Any, loss: nn.Module) -> Tensor:
        self._calls += 1
        complete = self.between_steps
        inputs = inputs.contiguous(memory_format=self.memory_format)
        with self._gradient_exchange(complete):
            with torch.autocast(
                inputs.device.type, self.amp_dtype, enabled=self.amp_dtype is not None
            ):
                logits = self.model(inputs)
            value = loss(logits, target)
            self.scaler.scale(value / self.accumulation_steps).backward()
        if complete:
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad()
            self.lr = self.optimizer.param_groups[0]["lr"]
            self.scheduler.step()
            self.steps += 1
        value = value.detach()
        if self.meter is not None:
            # The step that this batch belongs to, counted from 1.
            self.meter.add(value, logits.detach(), target, self.steps + (not complete))
        return value

    def restore(self, content: dict[str, Any], step: int) -> None:
        """Take momentum and loss scale from a checkpoint, and go on at optimizer step ``step``.

        Learning rate, momentum factor and weight decay stay those of this run.
        """
        own = [{k: v for k, v in g.items() if k != "params"} for g in self.optimizer.param_groups]
        self.optimizer.load_state_dict(content["optimizer"])
        for group, options in zip(self.optimizer.param_groups, own, strict=True):
            group.update(options)
        base = {"base_lrs": self.scheduler.base_lrs, "last_epoch": step, "_step_count": step + 1}
        self.scheduler.load_state_dict(content["scheduler"] | base)
        for group, factor in zip(
            self.optimizer.param_groups, self.scheduler.lr_lambdas, strict=True
        ):
            group["lr"] = group["initial_lr"] * factor(step)
        if self.scaler.is_enabled() and content["scaler"]:
            self.scaler.load_state_dict(content["scaler"])
        self.steps = step

    def _gradient_exchange(self, now: bool) -> contextlib.AbstractContextManager[None]:
        """Processes exchange gradients in the last call of a step only."""
        model = getattr(self.model, "_orig_mod", self.model)
        if isinstance(model, DistributedDataParallel) and not now:
            return model.no_sync()
        return contextlib.nullcontext()
