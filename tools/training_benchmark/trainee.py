"""The one network that all contestants train, and the batches they get."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from sprout_fast.methods import MethodSetting
from sprout_fast.models import Normalized, create_model, default_normalization
from sprout_fast.training.meter import Meter
from sprout_fast.training.optim import build_optimizer, build_scheduler
from sprout_fast.training.step import AMP_DTYPES, OptimizeStep

#: Everybody's. No time depends on the rate; at this one the network stays near its first weights,
#: whatever the method, where a common rate could diverge on random labels.
SGD_OPTIONS = {"lr": 1e-4, "momentum": 0.9, "weight_decay": 5e-4}

Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Trainee:
    """A network in training. One for all rows: the same weights, at the same addresses.

    Args:
        model: float [B,3,H,W] -> logits [B,K], on ``setting.device``.
        optimize: the step that `sprout_fast.methods` are lent in a run.
        setting: what methods are told about the run.
    """

    arch: str
    image_size: int
    model: nn.Module
    optimize: OptimizeStep
    setting: MethodSetting

    @property
    def device(self) -> torch.device:
        return torch.device(self.setting.device)

    def autocast(self) -> torch.autocast:
        """As the run's precision has it; for baselines, which have the loss inside as well."""
        dtype = self.optimize.amp_dtype
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)


def build_trainee(
    arch: str,
    num_classes: int,
    *,
    image_size: int,
    amp: str = "none",
    channels_last: bool = True,
    device: torch.device | str = "cpu",
) -> Trainee:
    """A fresh network and its training step, as `sprout_fast.training.run` puts them together.

    Raises:
        UserError: an unknown arch, or an image size that it does not take.
    """
    device = torch.device(device)
    mean, std = default_normalization(arch)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    model = create_model(arch, num_classes, image_size=image_size)
    model.to(device, memory_format=memory_format)
    optimizer = build_optimizer("sgd", model, **SGD_OPTIONS)
    optimize = OptimizeStep(
        model,
        Normalized(model, mean, std).to(device),
        optimizer,
        build_scheduler(optimizer, warmup_steps=0, total_steps=10**9),
        GradScaler(device.type, enabled=amp == "fp16"),
        amp_dtype=AMP_DTYPES[amp],
        memory_format=memory_format,
    )
    optimize.meter = Meter(device)
    setting = MethodSetting(
        num_classes, mean, std, dtype=AMP_DTYPES[amp] or torch.float32, device=device
    )
    return Trainee(arch, image_size, model, optimize, setting)


def synthetic_batches(trainee: Trainee, batch_size: int) -> Batches:
    """Random uint8 images, channels-last, and labels, on the device: what a loader gives, without
    one. Four batches over and over."""
    device, side = trainee.device, trainee.image_size
    batches = []
    for _ in range(4):
        nhwc = torch.randint(256, (batch_size, side, side, 3), dtype=torch.uint8, device=device)
        labels = torch.randint(trainee.setting.num_classes, (batch_size,), device=device)
        batches.append((nhwc.permute(0, 3, 1, 2), labels))
    return itertools.cycle(batches)
