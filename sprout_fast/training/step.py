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
from torch.optim.swa_utils import AveragedModel

from sprout_fast.training.meter import Meter

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
        model: maps normalized images, float [B,3,H,W], to logits [B,K]; plain, compiled, or in
            DistributedDataParallel.
        network: maps images in [0,1] to logits, with the same weights, outside of
            DistributedDataParallel.
        optimizer, scheduler: stepped together.
        scaler: loss scaling for fp16; pass a disabled one otherwise.
        accumulation_steps: calls whose gradients are averaged for one optimizer step.
        amp_dtype: autocast type of the model; None means float32. The loss is outside of autocast:
            it accepts logits of any type and computes in float32.
        memory_format: memory format of the model's inputs.
        ema: moving average of the weights, updated after each optimizer step.
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
    ema: AveragedModel | None = None

    def __post_init__(self) -> None:
        self._trained = Autocast(self.model, self.amp_dtype)
        self.network = Autocast(self.network, self.amp_dtype)
        self.steps = 0  # optimizer steps of the whole run
        self.last_lr = 0.0  # of the last step
        self.meter: Meter | None = None  # of the current epoch
        self._calls = 0

    @property
    def between_steps(self) -> bool:
        """Whether no gradient is pending, so that a checkpoint can be saved."""
        return self._calls % self.accumulation_steps == 0

    @property
    def lr(self) -> float:
        """Learning rate of the next optimizer step."""
        return self.optimizer.param_groups[0]["lr"]

    @property
    def lr_factor(self) -> float:
        """Learning rate of the next optimizer step as a fraction of the schedule's peak."""
        return self.scheduler.lr_lambdas[0](self.scheduler.last_epoch)

    @torch.no_grad()
    def logits(self, inputs: Tensor) -> Tensor:
        """Return logits of normalized inputs, in the model's current mode and without gradients."""
        return self._forward(inputs)

    def __call__(
        self, inputs: Tensor | Sequence[Tensor], target: Any, loss: Callable[[Any, Any], Tensor]
    ) -> Tensor:
        self._calls += 1
        complete = self.between_steps
        with self._gradient_exchange(complete):
            single = isinstance(inputs, Tensor)
            logits = [self._forward(batch) for batch in ([inputs] if single else inputs)]
            value = loss(logits[0] if single else tuple(logits), target)
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
            # The last argument is the number of this batch's step, from 1.
            self.meter.add(value, logits[0].detach(), target, self.steps + (not complete))
        return value

    def _forward(self, inputs: Tensor) -> Tensor:
        return self._trained(inputs.contiguous(memory_format=self.memory_format))

    def restore(self, content: Mapping[str, Any], step: int) -> None:
        """Restore momentum buffers and loss scale from a checkpoint, to resume at ``step``.

        Learning rate, momentum factor and weight decay remain those of this run.
        """
        own = [{k: v for k, v in g.items() if k != "params"} for g in self.optimizer.param_groups]
        self.optimizer.load_state_dict(content["optimizer"])
        base = {"base_lrs": self.scheduler.base_lrs, "last_epoch": step, "_step_count": step + 1}
        self.scheduler.load_state_dict(content["scheduler"] | base)
        groups = zip(self.optimizer.param_groups, own, self.scheduler.lr_lambdas, strict=True)
        for group, options, factor in groups:
            group.update(options)
            group["lr"] = group["initial_lr"] * factor(step)
        if self.scaler.is_enabled() and content["scaler"]:
            self.scaler.load_state_dict(content["scaler"])
        if self.ema is not None and step:
            # A run that had no averages before starts them at its weights.
            self.ema.module.load_state_dict(content["ema"] or content["model"])
            self.ema.n_averaged.fill_(step)
        self.steps = step

    def _gradient_exchange(self, now: bool) -> contextlib.AbstractContextManager[None]:
        """Return a context in which processes exchange gradients only if ``now``."""
        model = getattr(self.model, "_orig_mod", self.model)
        if isinstance(model, DistributedDataParallel) and not now:
            return model.no_sync()
        return contextlib.nullcontext()
