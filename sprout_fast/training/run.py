"""A training run: resolve the options, build the trainer, fit, report."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from sprout_fast.data import default_loader
from sprout_fast.distributed import World, joined_world
from sprout_fast.errors import UserError
from sprout_fast.files import atomic_write, folder_lock
from sprout_fast.job import end_job
from sprout_fast.models.mode import restored
from sprout_fast.training import environment, final_check, graph
from sprout_fast.training.build import build_trainer
from sprout_fast.training.config import OPTIMIZER_DEFAULTS, TrainConfig
from sprout_fast.training.interrupt import Interrupt
from sprout_fast.training.loop import Outcome, Trainer
from sprout_fast.training.metrics import WandbRun, plot_beta, wandb_package
from sprout_fast.training.parallel import whole_weights
from sprout_fast.training.progress import Display

# Options that determine the weights and the method's state: a resumed run cannot change them.
_FIXED = ("arch", "method", "image_size", "normalization", "modules", "beta_batch", "layer_decay")
# All files that a run writes.
_FILES = ("*.pt", "config.yaml", "metrics.csv", "*.png", "events.out.tfevents.*", "wandb")
_FILES += (environment.FILE,)


def train(config: TrainConfig, checkpoint: dict[str, Any] | None = None) -> int:
    """Train as ``config`` says.

    Args:
        config: the options; those that are None are chosen here.
        checkpoint: content of ``config.resume``, which is emptied once it is restored.

    Returns:
        the exit status: 0, or that of :attr:`~sprout_fast.training.interrupt.Interrupt.status`.

    Raises:
        UserError: an option, the data or a file that does not fit.
        FatalError: the loss or a weight is not finite, or no step succeeds.
    """
    config.check()
    if config.cuda_graph:
        # PyTorch's rule for capturing the exchange of gradients; read when the processes join.
        os.environ.setdefault(graph.NCCL_ERROR_HANDLING, "0")
    with (
        Interrupt().installed() as interrupt,
        joined_world(config.device, config.timeout) as world,
        contextlib.ExitStack() as held,
    ):
        display = Display(enabled=world.is_main)
        if config.tracker == "wandb" and world.is_main:
            wandb_package()
        config = resolve(config, world)
        _check_agreement(config, checkpoint, world)
        if checkpoint is not None:
            _check_same_run(config, checkpoint["config"])
            if checkpoint["epoch"] >= config.epochs:
                display.line(
                    f"{config.resume}: already trained for {config.epochs} epochs; raise epochs to"
                    " train longer"
                )
                return 0
        # The algorithms of convolutions that are fastest for these shapes. They may differ from run
        # to run, so on a GPU the bits may too. What follows a training in the same process may have
        # batches of many sizes, as attacks do, which would time all algorithms for each of them.
        held.enter_context(restored([torch.backends.cudnn], "benchmark"))
        torch.backends.cudnn.benchmark = True
        trainer = build_trainer(config, world, display, checkpoint, interrupt)
        if checkpoint is not None:
            checkpoint.clear()  # the callers keep it, and it is as large as the model's state
        if world.is_main:  # nothing is written before all else succeeded
            _prepare_folder(config, trainer.position.step, world, display, held)
            if config.tracker == "wandb":
                trainer.wandb = held.enter_context(WandbRun(config.out, config.stored()))
        world.barrier()
        _announce(config, trainer)
        last = config.out / "last.pt"
        try:
            outcome = trainer.fit(config.max_steps)
        except KeyboardInterrupt:  # the second Ctrl-C, or one where nothing could be saved
            saved = f"resume from {last}, saved earlier" if last.exists() else "nothing was saved"
            return _stop(world, display, f"stopped without saving; {saved}", interrupt.status)
        step = trainer.position.step
        if outcome is Outcome.INTERRUPTED:
            if trainer.wandb is not None:
                trainer.wandb.preempted(interrupt.status)
            display.line(f"interrupted after step {step}; resume from {last}")
            return interrupt.status
        if outcome is Outcome.MAX_STEPS:
            display.line(f"stopped at step {step}, as max_steps says; resume from {last}")
        try:
            if world.is_main and trainer.method.beta is not None and trainer.position.epoch:
                plot_beta(config.out / "metrics.csv", config.out / "beta.png")
            _report(config, trainer)
        except KeyboardInterrupt:
            text = f"interrupted before the final accuracy; the run is saved in {last}"
            return _stop(world, display, text, interrupt.status)
        return 0


def _stop(world: World, display: Display, text: str, status: int) -> int:
    """Print ``text`` and return ``status``; in a job, exit, since other processes may wait."""
    if world.size > 1:
        end_job(text, status)
    display.line(text)
    return status


def _check_agreement(
    config: TrainConfig, checkpoint: Mapping[str, Any] | None, world: World
) -> None:
    """Check that all processes resume at the same step, which need not see the same files."""
    step = -1 if checkpoint is None else checkpoint["step"]
    total = world.sum(torch.tensor(step, dtype=torch.int64, device=world.device))
    if int(total) != step * world.size:
        found = "found none" if checkpoint is None else f"found {config.resume}, of step {step}"
        raise UserError(
            f"process {world.rank} {found}, and another one a different checkpoint: all need the"
            " same folder",
            option="resume",
        )


def resolve(config: TrainConfig, world: World) -> TrainConfig:
    """Return ``config`` with a value in place of every None that means "choose for me"."""
    new = dataclasses.replace(config)
    images_per_step = new.batch_size or config.defaults()["batch_size"]
    images_per_step *= new.accumulation_steps * world.size
    if new.optimizer in OPTIMIZER_DEFAULTS:
        lr_per_image, weight_decay = OPTIMIZER_DEFAULTS[new.optimizer]
        if new.lr is None:
            new.lr = lr_per_image * images_per_step * (0.1 if new.weights is not None else 1)
        if new.weight_decay is None:
            new.weight_decay = weight_decay
    for name, value in config.defaults().items():
        if getattr(new, name) is None:
            setattr(new, name, value)
    if new.warmup_epochs is None:
        new.warmup_epochs = min(5.0, new.epochs / 10)
    if new.lr is None:
        new.lr = new.lr_per_image * images_per_step * (0.1 if new.weights is not None else 1)
    # Both are resolved once: a checkpoint has the numbers that its run used.
    if new.lr_batch_size is not None:
        new.lr, new.lr_batch_size = new.lr * images_per_step / new.lr_batch_size, None
    if new.ema is not None and new.ema_adjust:
        factor = images_per_step * new.ema_steps / new.epochs
        new.ema, new.ema_adjust = 1 - min(1.0, (1 - new.ema) * factor), False
    if new.min_lr > new.lr:
        raise UserError(f"{new.min_lr}: larger than lr, {new.lr:.4g}", option="min_lr")
    new.loader = new.loader or default_loader()
    if new.workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        new.workers = max(1, min(16, (cores or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
    new.amp = new.amp or ("bf16" if world.device.type == "cuda" else "none")
    new.device = world.device.type if world.size > 1 else str(world.device)
    new.out = new.out or _unused_folder(Path("runs") / f"{new.arch.replace(':', '-')}-{new.method}")
    return new


def _check_same_run(config: TrainConfig, stored: Mapping[str, Any]) -> None:
    for name in _FIXED:
        now, before = getattr(config, name), stored.get(name, getattr(config, name))
        if now != before:
            raise UserError(
                f"{config.resume}: was trained with {name} {before}, got {name} {now}; to start a"
                " new run from its weights, give the file as weights",
                option="resume",
            )


def _unused_folder(folder: Path) -> Path:
    """Return ``folder``, or the first of ``folder-2``, ``folder-3``, ... that does not exist."""
    number, unused = 1, folder
    while unused.exists():
        number += 1
        unused = folder.with_name(f"{folder.name}-{number}")
    return unused


def _prepare_folder(
    config: TrainConfig, step: int, world: World, display: Display, held: contextlib.ExitStack
) -> None:
    """Create and lock the folder ``config.out``, move a previous run aside, write its first files.

    ``step`` is the one that the run starts at.
    """
    out = config.out
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not held.enter_context(folder_lock(out)):
            display.warn(f"{out}: its file system has no locks: start no other run there meanwhile")
        resumes_here = config.resume is not None and config.resume.parent.samefile(out)
        if (out / "last.pt").exists() and not resumes_here:
            previous = _unused_folder(out / "previous")
            previous.mkdir()
            for pattern in _FILES:
                for file in out.glob(pattern):
                    file.rename(previous / file.name)
            display.line(f"moved the previous run in {out} to {previous}")
        with atomic_write(out / "config.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(config.stored(), sort_keys=False))
        environment.record_start(out, world, step, config.resume)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}", option="out") from error


def _announce(config: TrainConfig, trainer: Trainer) -> None:
    world, position, accumulated = trainer.world, trainer.position, config.accumulation_steps
    trainer.display.line(
        f"training {config.arch} with {config.method} on {world.device}, amp {config.amp}:"
        f" {config.epochs} epoch{'s'[: config.epochs > 1]} of {trainer.steps_per_epoch} steps,"
        f" batch size {config.batch_size}"
        + (f" x {world.size} processes" if world.size > 1 else "")
        + (f" x {accumulated} accumulation steps" if accumulated > 1 else "")
        + f", {config.image_size} x {config.image_size} pixels, lr {config.lr:.4g};"
        f" writing to {config.out}"
    )
    if position.step:
        trainer.display.line(
            f"resuming from {config.resume} after epoch {position.epoch}, step {position.step}"
        )


def _report(config: TrainConfig, trainer: Trainer) -> None:
    """Log the final clean and PGD-10 accuracy and the files that were saved."""
    device, loader, display = trainer.world.device, trainer.loaders.val, trainer.display
    count = config.final_attack_images
    if count is None:
        count = final_check.default_images(trainer.model, config.image_size, device)
    if count == 0:
        return
    count = min(count, loader.num_images)
    display.line(
        f"measuring clean and PGD-{final_check.STEPS} accuracy on {count} validation images"
    )
    with whole_weights(trainer.evaluated):
        lines = final_check.check_accuracy(
            trainer.evaluated, loader, count=count, device=device, seed=config.seed
        )
    for line in lines:
        display.line(line)
    best = config.out / "best.pt"
    display.line(f"saved {config.out / 'last.pt'}" + (f", {best}" * best.exists()))
