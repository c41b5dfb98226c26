"""A training run: resolve the options, build the trainer, fit, report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sprout_fast.distributed import joined_world
from sprout_fast.errors import UserError
from sprout_fast.training import final_check
from sprout_fast.training.build import build_trainer
from sprout_fast.training.config import TrainConfig
from sprout_fast.training.figures import plot_beta
from sprout_fast.training.loop import Outcome, Trainer
from sprout_fast.training.progress import Display
from sprout_fast.training.resolve import resolve

# Options that determine the weights and the method's state: a resumed run cannot change them.
_FIXED = ("arch", "method", "image_size", "normalization", "modules", "beta_batch")


def train(config: TrainConfig, checkpoint: Mapping[str, Any] | None = None) -> int:
    """Train as ``config`` says.

    Args:
        config: the options; those that are None are chosen here.
        checkpoint: content of ``config.resume``.

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
                    f"{config.resume}: already trained for {config.epochs} epochs; raise epochs to"
                    " train longer"
                )
                return 0
        trainer = build_trainer(config, world, display, checkpoint)
        _announce(config, trainer)
        last = config.out / "last.pt"
        try:
            outcome = trainer.fit(config.max_steps)
        except KeyboardInterrupt:  # the second Ctrl-C, or one where nothing could be saved
            saved = f"resume from {last}, saved earlier" if last.exists() else "nothing was saved"
            display.line(f"stopped without saving; {saved}")
            return 130
        step = trainer.position.step
        if outcome is Outcome.INTERRUPTED:
            display.line(f"interrupted after step {step}; resume from {last}")
            return 130
        if outcome is Outcome.MAX_STEPS:
            display.line(f"stopped at step {step}, as max_steps says; resume from {last}")
        try:
            if world.is_main and trainer.method.beta is not None and trainer.position.epoch:
                plot_beta(config.out / "metrics.csv", config.out / "beta.png")
            _report(config, trainer)
        except KeyboardInterrupt:
            display.line(f"interrupted before the final accuracy; the run is saved in {last}")
            return 130
        return 0


def _check_same_run(config: TrainConfig, stored: Mapping[str, Any]) -> None:
    for name in _FIXED:
        now, before = getattr(config, name), stored.get(name, getattr(config, name))
        if now != before:
            raise UserError(
                f"{config.resume}: was trained with {name} {before}, got {name} {now}; to start a"
                " new run from its weights, give the file as weights",
                option="resume",
            )


def _announce(config: TrainConfig, trainer: Trainer) -> None:
    world, position = trainer.world, trainer.position
    processes = f" x {world.size} processes" if world.size > 1 else ""
    accumulated = (
        f" x {config.accumulation_steps} accumulation steps"
        if config.accumulation_steps > 1
        else ""
    )
    trainer.display.line(
        f"training {config.arch} with {config.method} on {world.device}, amp {config.amp}:"
        f" {config.epochs} epoch{'s'[: config.epochs > 1]} of {trainer.steps_per_epoch} steps,"
        f" batch size {config.batch_size}{processes}{accumulated},"
        f" {config.image_size} x {config.image_size} pixels, lr {config.lr:.4g};"
        f" writing to {config.out}"
    )
    if position.step:
        trainer.display.line(
            f"resuming from {config.resume} after epoch {position.epoch}, step {position.step}"
        )


def _report(config: TrainConfig, trainer: Trainer) -> None:
    """Log the final clean and PGD-10 accuracy and the files that were saved."""
    device, total = trainer.world.device, trainer.loaders.val.num_images
    count = config.final_attack_images
    if count is None:
        count = final_check.default_images(trainer.model, config.image_size, device)
    if count == 0:
        return
    count = min(count, total)
    trainer.display.line(
        f"measuring clean and PGD-{final_check.STEPS} accuracy on {count} validation images"
    )
    result = final_check.check_accuracy(
        trainer.evaluated,
        trainer.loaders.val,
        total=total,
        count=count,
        device=device,
        seed=config.seed,
    )
    for line in final_check.describe(result, total):
        trainer.display.line(line)
    best = config.out / "best.pt"
    trainer.display.line(f"saved {config.out / 'last.pt'}" + (f", {best}" * best.exists()))
