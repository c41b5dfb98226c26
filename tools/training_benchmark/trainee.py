"""The network that all contestants train, and the batches they train on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from sprout_fast.distributed import World
from sprout_fast.methods import MethodSetting
from sprout_fast.models import Normalized, create_model, default_normalization
from sprout_fast.training.build import data_parallel
from sprout_fast.training.meter import Meter
from sprout_fast.training.optim import build_optimizer, build_scheduler
from sprout_fast.training.step import AMP_DTYPES, OptimizeStep

#: For all contestants. Times do not depend on the learning rate; a low one keeps the network near
#: its initial weights with every method, whereas a usual one could diverge on random labels.
SGD_OPTIONS: dict[str, Any] = {"lr": 1e-4, "momentum": 0.9, "weight_decay": 5e-4}

Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Trainee:
    """A network in training, shared by all rows: the same weights at the same addresses.

    Args:
        arch, image_size: of the network.
        model: maps float images [B,3,H,W] to logits [B,K], on ``setting.device``.
        optimize: the trainer's optimization step, which methods call.
        setting: the run as methods see it.
        world: this process.
    """

    arch: str
    image_size: int
    model: nn.Module
    optimize: OptimizeStep
    setting: MethodSetting
    world: World

    @property
    def device(self) -> torch.device:
        return self.world.device

    @property
    def capturable(self) -> bool:
        """Whether steps are also timed as CUDA graphs."""
        single = self.device.type == "cuda" and self.world.size == 1
        return single and not self.optimize.scaler.is_enabled()

    def autocast(self) -> torch.autocast:
        """Return an autocast context of the run's precision; baselines include the loss in it."""
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
    world: World | None = None,
    first_row: int = 0,
) -> Trainee:
    """Build a network and its training step in the same way as ``sprout_fast.training.run``.

    Args:
        arch, num_classes, image_size, amp, channels_last, device: as in training.
        world: this process among several, on its device; by default one process on ``device``.
        first_row: of this process's batches among those of all.

    Raises:
        UserError: an unknown arch, or an image size that it does not support.
    """
    world = world or World(0, 1, torch.device(device))
    device = world.device
    mean, std = default_normalization(arch)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    model = create_model(arch, num_classes, image_size=image_size)
    model.to(device).to(memory_format=memory_format)
    optimizer = build_optimizer("sgd", model, **SGD_OPTIONS)
    trained = data_parallel(model, world)
    optimize = OptimizeStep(
        trained,
        Normalized(model, mean, std).to(device),
        optimizer,
        build_scheduler(optimizer, warmup_steps=0, total_steps=10**9),
        GradScaler(device.type, enabled=amp == "fp16"),
        amp_dtype=AMP_DTYPES[amp],
        memory_format=memory_format,
    )
    optimize.meter = Meter(device)
    setting = MethodSetting(
        num_classes,
        mean,
        std,
        dtype=AMP_DTYPES[amp] or torch.float32,
        first_row=first_row,
        device=device,
    )
    return Trainee(arch, image_size, trained, optimize, setting, world)


def synthetic_batches(trainee: Trainee, batch_size: int) -> Batches:
    """Cycle through four batches of random uint8 channels-last images and labels on the device."""
    device, side = trainee.device, trainee.image_size
    batches = []
    for _ in range(4):
        nhwc = torch.randint(256, (batch_size, side, side, 3), dtype=torch.uint8, device=device)
        labels = torch.randint(trainee.setting.num_classes, (batch_size,), device=device)
        batches.append((nhwc.permute(0, 3, 1, 2), labels))
    return itertools.cycle(batches)
