"""Values for the options that were left open."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from sprout_fast.data import default_loader
from sprout_fast.distributed import World
from sprout_fast.training.config import TrainConfig
from sprout_fast.training.run_folder import unused_folder


def resolve(config: TrainConfig, world: World) -> TrainConfig:
    """Return ``config`` with a value in place of every None that means "choose for me"."""
    new = dataclasses.replace(config)
    for name, value in config.defaults().items():
        if getattr(new, name) is None:
            setattr(new, name, value)
    if new.warmup_epochs is None:
        new.warmup_epochs = min(5.0, new.epochs / 10)
    if new.lr is None:
        images_per_step = new.batch_size * new.accumulation_steps * world.size
        new.lr = new.lr_per_image * images_per_step * (0.1 if new.weights is not None else 1)
    new.loader = new.loader or default_loader()
    if new.workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        new.workers = max(1, min(8, (cores or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
    new.amp = new.amp or ("bf16" if world.device.type == "cuda" else "none")
    new.device = world.device.type if world.size > 1 else str(world.device)
    if new.out is None:
        new.out = unused_folder(Path("runs") / f"{new.arch}-{new.method}")
    return new
