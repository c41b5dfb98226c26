"""Forward, loss, backward, and an optimizer step when the accumulation is complete."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from sprout_fast.training.meter import Meter


class Autocast(nn.Module):
    """``model`` under autocast to ``dtype``; None is float32."""

    def __init__(self, model: nn.Module, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.autocast(inputs.device.type, self.dtype, enabled=self.dtype is not None):
            return self.model(inputs)


class OptimizeStep:
    """What the loop lends to a method's ``training_step``: see `sprout_fast.methods.Optimize`.

    Args:
        model: plain, compiled, or in DistributedDataParallel; float [B,3,H,W] -> logits [B,K].
        network: the same weights behind a normalisation, outside DistributedDataParallel: takes
            images in [0,1].
        optimizer, scheduler: stepped together.
        scaler: of the loss, for fp16; a disabled one passes through.
        accumulation_steps: calls whose gradients are averaged for one optimizer step.
        amp_dtype: of autocast around the model; None is float32. The loss is outside: it reads
            logits of any type and computes in float32.
        memory_format: of the model's inputs.
        ema: averages of the weights, brought up to date after each optimizer step.
    """

    def __init__(
        self,
        model: nn.Module,
        network: nn.Module,
        optimizer: Optimizer,
        scheduler: LambdaLR,
        scaler: GradScaler,
        *,
        accumulation_steps: int = 1,
        amp_dtype: torch.dtype | None = None,
        memory_format: torch.memory_format = torch.channels_last,
        ema: AveragedModel | None = None,
    ) -> None:
        self.model = model
        self._trained = Autocast(model, amp_dtype)
        self.network = Autocast(network, amp_dtype)
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.scaler = scaler
        self.accumulation_steps = accumulation_steps
        self.amp_dtype = amp_dtype
        self.memory_format = memory_format
        self.ema = ema
        self.steps = 0  # optimizer steps of the whole run
        self.last_lr = 0.0  # of the last step
        self.meter: Meter | None = None  # of the current epoch
        self._calls = 0

    @property
    def between_steps(self) -> bool:
        """Whether no gradient is pending: the state that a checkpoint can hold."""
        return self._calls % self.accumulation_steps == 0

    @property
    def lr(self) -> float:
        """Learning rate of the next optimizer step."""
        return self.optimizer.param_groups[0]["lr"]

    @torch.no_grad()
    def logits(self, inputs: Tensor) -> Tensor:
        """Logits of normalised inputs, the model in its present mode, without a gradient."""
        return self._forward(inputs)

    def __call__(
        self, inputs: Tensor | Sequence[Tensor], target: Any, loss: Callable[[Any, Any], Tensor]
    ) -> Tensor:
        self._calls += 1
        complete = self.between_steps
        with self._gradient_exchange(complete):
            if isinstance(inputs, Tensor):
                logits = self._forward(inputs)
            else:
                logits = tuple(self._forward(batch) for batch in inputs)
            value = loss(logits, target)
            self.scaler.scale(value / self.accumulation_steps).backward()
        if complete:
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad()
            self.last_lr = self.lr
            self.scheduler.step()
            self.steps += 1
            if self.ema is not None:
                self.ema.update_parameters(self.model)
        value = value.detach()
        if self.meter is not None:
            first = logits if isinstance(logits, Tensor) else logits[0]
            # The step that this batch belongs to, counted from 1.
            self.meter.add(value, first.detach(), target, self.steps + (not complete))
        return value

    def _forward(self, inputs: Tensor) -> Tensor:
        return self._trained(inputs.contiguous(memory_format=self.memory_format))

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
        if self.ema is not None and step:
            # A run that kept no averages before begins them at its weights.
            self.ema.module.load_state_dict(content["ema"] or content["model"])
            self.ema.n_averaged.fill_(step)
        self.steps = step

    def _gradient_exchange(self, now: bool) -> contextlib.AbstractContextManager[None]:
        """Processes exchange gradients in the last call of a step only."""
        model = getattr(self.model, "_orig_mod", self.model)
        if isinstance(model, DistributedDataParallel) and not now:
            return model.no_sync()
        return contextlib.nullcontext()
