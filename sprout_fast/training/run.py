"""A training run: puts model, data, method and loop together as the options say."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel

from sprout_fast.data import Loaders, build_loaders, default_loader
from sprout_fast.data.sample_set import make_sample_set
from sprout_fast.distributed import World, joined_world
from sprout_fast.errors import UserError
from sprout_fast.methods import MethodSetting, build_method
from sprout_fast.models import (
    Normalized,
    create_model,
    default_normalization,
    is_arch,
    load_weights,
)
from sprout_fast.training.config import TrainConfig
from sprout_fast.training.ema import averaged
from sprout_fast.training.figures import plot_beta
from sprout_fast.training.final import STEPS, default_images, describe_final, evaluate_final
from sprout_fast.training.initialization import zero_init_residual
from sprout_fast.training.loop import Outcome, Position, Trainer, steps_per_epoch
from sprout_fast.training.metrics import MetricsLog
from sprout_fast.training.optim import build_optimizer, build_scheduler
from sprout_fast.training.progress import Display
from sprout_fast.training.step import OptimizeStep

AMP_DTYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def train(config: TrainConfig, checkpoint: Mapping[str, Any] | None = None) -> int:
    """Train as ``config`` says; ``checkpoint`` is the content of ``config.resume``.

    Returns:
        the exit status: 0, or 130 after Ctrl-C.

    Raises:
        UserError: an option, the data or a file that does not fit.
        FatalError: the loss became NaN or infinite.
    """
    config.check()
    with joined_world(config.device) as world:
        display = Display(enabled=world.is_main)
        config = resolve(config, world)
        if checkpoint is not None:
            _check_same_run(config, checkpoint["config"])
            if checkpoint["epoch"] >= config.epochs:
                display.line(
                    f"{config.resume}: all {config.epochs} epochs are done; more with --epochs"
                )
                return 0
        trainer = build(config, world, display, checkpoint)
        last = config.out / "last.pt"
        try:
            outcome = trainer.fit(config.max_steps)
        except KeyboardInterrupt:  # the second one, or where nothing can be saved
            saved = f"go on from before with --resume {last}" if last.exists() else "nothing saved"
            display.line(f"interrupted at once; {saved}")
            return 130
        if outcome is Outcome.INTERRUPTED:
            step = trainer.position.step
            display.line(f"interrupted after step {step}; go on with --resume {last}")
            return 130
        if outcome is Outcome.MAX_STEPS:
            display.line(
                f"stopped after --max-steps {config.max_steps}, at step {trainer.position.step};"
                f" go on with --resume {last}"
            )
        try:
            if world.is_main and trainer.method.beta is not None and trainer.position.epoch:
                plot_beta(config.out / "metrics.csv", config.out / "beta.png")
            _report(config, trainer, display)
        except KeyboardInterrupt:
            display.line(f"interrupted before the final accuracy; the run is saved in {last}")
            return 130
        return 0


def resolve(config: TrainConfig, world: World) -> TrainConfig:
    """``config`` with a value in the place of every None that stands for "chosen for you"."""
    new = dataclasses.replace(config)
    for name, value in config.chosen().items():
        if getattr(new, name) is None:
            setattr(new, name, value)
    if new.warmup_epochs is None:
        new.warmup_epochs = min(5.0, new.epochs / 10)
    if new.lr is None:
        images_a_step = new.batch_size * new.accumulation_steps * world.size
        new.lr = new.lr_per_image * images_a_step * (0.1 if new.weights is not None else 1)
    new.loader = new.loader or default_loader()
    if new.workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        new.workers = max(1, min(8, (cores or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
    new.amp = new.amp or ("bf16" if world.device.type == "cuda" else "none")
    new.device = world.device.type if world.size > 1 else str(world.device)
    if is_arch(new.arch_prefix + new.arch):
        new.arch = new.arch_prefix + new.arch
    if new.out is None:
        new.out = _free_folder(Path("runs") / f"{new.arch}-{new.method}")
    return new


def build(
    config: TrainConfig,
    world: World,
    display: Display,
    checkpoint: Mapping[str, Any] | None = None,
) -> Trainer:
    """The trainer for a resolved ``config``; it writes the run's folder last of all."""
    torch.manual_seed(config.seed)
    mean, std = default_normalization(config.arch)
    if config.normalization == "none":
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    amp_dtype = AMP_DTYPES[config.amp]
    memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
    # A wrong option of the method is told before minutes go into a large data set's listing.
    setting = MethodSetting(
        num_classes=2,
        mean=mean,
        std=std,
        dtype=amp_dtype or torch.float32,
        accumulation_steps=config.accumulation_steps,
        seed=config.seed,
        first_row=world.rank * config.batch_size,
        device=world.device,
    )
    build_method(config.method, setting, **config.method_options())
    loaders = _load_data(config, world, display)
    if checkpoint is not None and checkpoint["config"]["classes"] != loaders.classes:
        raise UserError(f"--resume {config.resume}: was trained on other classes than --data has")
    setting = dataclasses.replace(setting, num_classes=len(loaders.classes))
    method = build_method(config.method, setting, **config.method_options())

    model = create_model(config.arch, len(loaders.classes), image_size=config.image_size)
    if world.rank:
        torch.manual_seed(config.seed + world.rank)  # dropout differs from process to process
    zero_init_residual(model)
    if config.weights is not None:
        display.line(load_weights(model, config.weights, reset_head=config.reset_head))
    model.to(world.device, memory_format=memory_format)
    optimizer = build_optimizer(
        config.optimizer,
        model,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        norm_decay=config.norm_decay,
    )
    steps = steps_per_epoch(len(loaders.train), config.accumulation_steps, method.passes)
    if steps == 0:
        raise UserError(
            f"--accumulation-steps {config.accumulation_steps}: more than the"
            f" {len(loaders.train)} batches of an epoch"
        )
    scheduler = build_scheduler(
        optimizer,
        config.schedule,
        warmup_steps=round(config.warmup_epochs * steps),
        total_steps=config.epochs * steps,
    )
    ema = None if config.ema is None else averaged(model, config.ema)
    wrapped, network = _wrapped(model, config, world)
    optimize = OptimizeStep(
        wrapped,
        Normalized(network, mean, std).to(world.device),
        optimizer,
        scheduler,
        GradScaler(world.device.type, enabled=config.amp == "fp16"),
        accumulation_steps=config.accumulation_steps,
        amp_dtype=amp_dtype,
        memory_format=memory_format,
        ema=ema,
    )
    evaluated = Normalized(model if ema is None else ema.module, mean, std).to(world.device)
    record = config.stored() | {
        "num_classes": len(loaders.classes),
        "classes": list(loaders.classes),
        "mean": list(mean),
        "std": list(std),
    }
    if world.is_main:
        _prepare_out(config, display)
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
        record=record,
        display=display,
        metrics=metrics if world.is_main else None,
    )
    if checkpoint is not None:
        trainer.restore(checkpoint)
    _announce(config, world, display, trainer)
    return trainer


def _load_data(config: TrainConfig, world: World, display: Display) -> Loaders:
    data = config.data
    if data is None:
        data = config.out.parent / "sample_set"
        if world.is_main:
            make_sample_set(data)
            display.line(
                f"no --data: training on a made-up sample set of 10 classes in {data}, by a short"
                " schedule"
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
        limit_train=getattr(config, "limit_train", None),
        shard_id=world.rank,
        num_shards=world.size,
    )
    display.line(loaders.description)
    return loaders


def _wrapped(model: nn.Module, config: TrainConfig, world: World) -> tuple[nn.Module, nn.Module]:
    """The model as it is trained, and as attacks of the method see it."""
    network = torch.compile(model) if config.compile else model
    if world.size == 1:
        return network, network
    ids = [world.device.index] if world.device.type == "cuda" else None
    # Each process keeps batch norm statistics of its own until validation: a broadcast before every
    # forward pass would write into what the first of two passes saved for backward.
    shared = DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)
    return torch.compile(shared) if config.compile else shared, network


def _check_same_run(config: TrainConfig, stored: Mapping[str, Any]) -> None:
    # What weights and the method's state are made of.
    for name in ("arch", "method", "image_size", "normalization", "modules", "beta_batch"):
        now, before = getattr(config, name), stored.get(name, getattr(config, name))
        if now != before:
            raise UserError(
                f"--resume {config.resume}: is a run with {name} {before}, not {now}; to start"
                " from its weights, give the file as --weights"
            )


def _free_folder(folder: Path) -> Path:
    number, free = 1, folder
    while free.exists():
        number += 1
        free = folder.with_name(f"{folder.name}-{number}")
    return free


def _prepare_out(config: TrainConfig, display: Display) -> None:
    """Make the run's folder, set an earlier run in it aside, and write config.yaml."""
    out = config.out
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
        goes_on_here = config.resume is not None and config.resume.parent.samefile(out)
        if (out / "last.pt").exists() and not goes_on_here:
            aside = _free_folder(out / "earlier")
            aside.mkdir()
            for pattern in ("*.pt", "config.yaml", "metrics.csv", "*.png", "events.out.tfevents.*"):
                for file in out.glob(pattern):
                    file.rename(aside / file.name)
            display.line(f"{out} held another run: its files are in {aside} now")
        text = yaml.safe_dump(config.stored(), sort_keys=False)
        (out / "config.yaml").write_text(text)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}") from error


def _announce(config: TrainConfig, world: World, display: Display, trainer: Trainer) -> None:
    position = trainer.position
    processes = f" x {world.size} processes" if world.size > 1 else ""
    accumulated = f" x {config.accumulation_steps} steps" if config.accumulation_steps > 1 else ""
    display.line(
        f"{config.arch} by {config.method} on {world.device}, amp {config.amp}:"
        f" {config.epochs} epoch{'s'[: config.epochs > 1]} of {trainer.steps_per_epoch} steps,"
        f" batch {config.batch_size}{processes}{accumulated}, {config.image_size} pixels,"
        f" lr {config.lr:.4g}; writing to {config.out}"
    )
    if position.step:
        display.line(
            f"going on from {config.resume}: {position.epoch} epochs and {position.step} steps done"
        )


def _report(config: TrainConfig, trainer: Trainer, display: Display) -> None:
    """The closing clean and PGD-10 accuracy."""
    device, total = trainer.world.device, trainer.loaders.val.num_images
    count = config.final_attack_images
    if count is None:
        count = default_images(trainer.model, config.image_size, device)
    if count == 0:
        return
    count = min(count, total)
    display.line(f"measuring clean and PGD-{STEPS} accuracy on {count} validation images")
    result = evaluate_final(
        trainer.evaluated,
        trainer.loaders.val,
        total=total,
        count=count,
        device=device,
        seed=config.seed,
    )
    for line in describe_final(result, total):
        display.line(line)
    best = config.out / "best.pt"
    files = f"{config.out / 'last.pt'}" + (f", {best}" if best.exists() else "")
    display.line(f"saved {files}")
