"""Data, method, model and optimizer of a run, put together as the options say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel

from sprout_fast.data import Loaders, build_loaders
from sprout_fast.data.sample_set import make_sample_set
from sprout_fast.distributed import World
from sprout_fast.errors import UserError
from sprout_fast.methods import Method, MethodSetting, build_method
from sprout_fast.models import (
    Normalized,
    create_model,
    default_normalization,
    is_arch,
    load_weights,
)
from sprout_fast.training.config import TrainConfig
from sprout_fast.training.ema import averaged
from sprout_fast.training.initialization import zero_init_residual
from sprout_fast.training.loop import Position, Trainer, steps_per_epoch
from sprout_fast.training.metrics import MetricsLog
from sprout_fast.training.optim import build_optimizer, build_scheduler
from sprout_fast.training.progress import Display
from sprout_fast.training.run_folder import prepare_folder
from sprout_fast.training.step import AMP_DTYPES, OptimizeStep

Channels = tuple[float, float, float]


def build_trainer(
    config: TrainConfig,
    world: World,
    display: Display,
    checkpoint: Mapping[str, Any] | None = None,
) -> Trainer:
    """Return the trainer for a resolved ``config``; nothing is written before all else succeeded.

    Args:
        config: the options, with a value in place of every None.
        world: this process.
        display: where log lines go.
        checkpoint: content of ``config.resume``, which the trainer continues from.

    Raises:
        UserError: an option, the data or a file that does not fit.
    """
    torch.manual_seed(config.seed)
    mean, std = default_normalization(config.arch)
    if config.normalization == "none":
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    loaders = _load_data(config, world, display)
    if checkpoint is not None and checkpoint["config"]["classes"] != loaders.classes:
        raise UserError(
            f"{config.resume}: its classes differ from those of {config.data}", option="resume"
        )
    method = _build_method(config, len(loaders.classes), mean, std, world)
    steps = steps_per_epoch(len(loaders.train), config.accumulation_steps, method.passes)
    if steps == 0:
        raise UserError(
            f"{config.accumulation_steps}: more than the {len(loaders.train)} batches per epoch",
            option="accumulation_steps",
        )
    model = _build_model(config, len(loaders.classes), world, display)
    ema = None if config.ema is None else averaged(model, config.ema)
    evaluated = Normalized(model if ema is None else ema.module, mean, std).to(world.device)
    wrapped, network = _wrapped(model, config, world)
    optimizer = build_optimizer(
        config.optimizer,
        model,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        norm_decay=config.norm_decay,
    )
    optimize = OptimizeStep(
        wrapped,
        Normalized(network, mean, std).to(world.device),
        optimizer,
        build_scheduler(
            optimizer,
            config.schedule,
            warmup_steps=round(config.warmup_epochs * steps),
            total_steps=config.epochs * steps,
        ),
        GradScaler(world.device.type, enabled=config.amp == "fp16"),
        accumulation_steps=config.accumulation_steps,
        amp_dtype=AMP_DTYPES[config.amp],
        memory_format=_memory_format(config),
        ema=ema,
    )
    if world.is_main:
        prepare_folder(config, display)
    world.barrier()

    def metrics(at: Position) -> MetricsLog:
        return MetricsLog(config.out, method.statistics(), at.epoch, at.step)

    trainer = Trainer(
        model=model,
        evaluated=evaluated,
        method=method,
        optimize=optimize,
        loaders=loaders,
        epochs=config.epochs,
        world=world,
        out=config.out if world.is_main else None,
        record=config.stored()
        | {
            "num_classes": len(loaders.classes),
            "classes": list(loaders.classes),
            "mean": list(mean),
            "std": list(std),
        },
        display=display,
        metrics=metrics if world.is_main else None,
    )
    if checkpoint is not None:
        trainer.restore(checkpoint)
    return trainer


def _load_data(config: TrainConfig, world: World, display: Display) -> Loaders:
    data = config.data
    if data is None:
        data = config.out.parent / "sample_set"
        if world.is_main:
            make_sample_set(data)
            display.line(
                f"no data given: training on a generated sample set of 10 classes in {data}, with a"
                " short schedule"
            )
        world.barrier()
    loaders = build_loaders(
        data,
        loader=config.loader,
        batch_size=config.batch_size,
        image_size=config.image_size,
        device=world.device,
        seed=config.seed,
        workers=config.workers,
        limit_train=config.limit_train,
        shard_id=world.rank,
        num_shards=world.size,
    )
    display.line(loaders.description)
    return loaders


def _build_method(
    config: TrainConfig, num_classes: int, mean: Channels, std: Channels, world: World
) -> Method:
    setting = MethodSetting(
        num_classes=num_classes,
        mean=mean,
        std=std,
        dtype=AMP_DTYPES[config.amp] or torch.float32,
        accumulation_steps=config.accumulation_steps,
        seed=config.seed,
        first_row=world.rank * config.batch_size,
        device=world.device,
    )
    return build_method(config.method, setting, **config.method_options())


def _build_model(
    config: TrainConfig, num_classes: int, world: World, display: Display
) -> nn.Module:
    small = f"cifar_{config.arch}"
    if config.data is not None and config.image_size <= 64 and is_arch(small):
        display.warn(
            f"{config.arch} is torchvision's, made for large images; for {config.image_size} pixels"
            f" use {small}"
        )
    model = create_model(config.arch, num_classes, image_size=config.image_size)
    if world.rank:
        torch.manual_seed(config.seed + world.rank)  # dropout differs from process to process
    zero_init_residual(model)
    if config.weights is not None:
        display.line(load_weights(model, config.weights, reset_head=config.reset_head))
    return model.to(world.device).to(memory_format=_memory_format(config))


def _wrapped(model: nn.Module, config: TrainConfig, world: World) -> tuple[nn.Module, nn.Module]:
    """Return the model as it is trained, and as the attacks of the method see it."""
    network = _compiled(model, config)
    if world.size == 1:
        return network, network
    ids = [world.device.index] if world.device.type == "cuda" else None
    # Each process keeps batch norm statistics of its own until validation: a broadcast before every
    # forward pass would write into what the first of two passes saved for backward.
    parallel = DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)
    return _compiled(parallel, config), network


def _compiled(model: nn.Module, config: TrainConfig) -> nn.Module:
    if not config.compile:
        return model
    compiled = torch.compile(model)
    assert isinstance(compiled, nn.Module)
    return compiled


def _memory_format(config: TrainConfig) -> torch.memory_format:
    return torch.channels_last if config.channels_last else torch.contiguous_format
