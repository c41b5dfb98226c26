"""The training loop, the same for all methods: it only calls a method's ``training_step``."""

from __future__ import annotations

import dataclasses
import enum
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from sprout_fast.data import Loaders
from sprout_fast.distributed import World
from sprout_fast.errors import FatalError, UserError
from sprout_fast.evaluation.accuracy import MeasuredAccuracy, measure_accuracy
from sprout_fast.methods import Method
from sprout_fast.training import checkpoint
from sprout_fast.training.interrupt import Interrupt
from sprout_fast.training.meter import Meter, Reading
from sprout_fast.training.metrics import RAW_COLUMNS, MetricsLog
from sprout_fast.training.progress import Display, describe
from sprout_fast.training.step import OptimizeStep


class Outcome(enum.Enum):
    """How :meth:`Trainer.fit` ended."""

    FINISHED = "finished"
    MAX_STEPS = "max_steps"
    INTERRUPTED = "interrupted"


@dataclass
class Position:
    """Completed epochs, optimizer steps, and the best validation accuracy so far, in [0,1]."""

    epoch: int = 0
    step: int = 0
    best_top1: float = -1.0


def steps_per_epoch(batches: int, accumulation_steps: int, passes: int) -> int:
    """Return the optimizer steps per epoch, without those of an incomplete accumulation.

    ``passes`` is the number of steps that the method makes on each batch; more than one only
    without accumulation.

    >>> steps_per_epoch(10, accumulation_steps=4, passes=1)
    2
    """
    return batches // accumulation_steps * passes


@dataclass(kw_only=True, eq=False, repr=False)
class Trainer:
    """Training with validation after each epoch, which saves ``last.pt`` and ``best.pt``.

    Args:
        model: the plain model, for checkpoints; ``optimize.model`` may wrap it.
        evaluated: maps images in [0,1] to logits, with the weights to validate: the averaged ones,
            if there are any.
        raw: the same with the raw weights, which are validated too; None if ``evaluated`` has them.
        method: the training method.
        optimize: the training step that is passed to the method.
        loaders: training and validation images.
        epochs: epochs of the whole run.
        world: this process.
        out: folder for checkpoints and metrics, or None in a process that writes none.
        keep_every: epochs between the checkpoints that are kept as ``epoch-NNN.pt``, or None.
        record: plain values for the checkpoint's ``config``.
        dist_bn: how batch norm's statistics are shared between processes before validation.
        display: where log lines go.
    """

    model: nn.Module
    evaluated: nn.Module
    raw: nn.Module | None = None
    method: Method
    optimize: OptimizeStep
    loaders: Loaders
    epochs: int
    world: World
    out: Path | None
    keep_every: int | None = None
    dist_bn: Literal["none", "reduce", "broadcast"] = "broadcast"
    record: dict[str, Any]
    display: Display
    position: Position = field(default_factory=Position, init=False)

    def __post_init__(self) -> None:
        batches, every = len(self.loaders.train), self.optimize.accumulation_steps
        self.batches = batches - batches % every
        self.steps_per_epoch = steps_per_epoch(batches, every, self.method.passes)

    def fit(self, max_steps: int | None = None) -> Outcome:
        """Train for the remaining epochs, or for ``max_steps`` optimizer steps of them.

        Raises:
            FatalError: the loss is not finite. The previous checkpoint is kept.
            KeyboardInterrupt: a second Ctrl-C.
        """
        stop_at = None if max_steps is None else self.position.step + max_steps
        log = None
        if self.out is not None:
            at = self.position
            names = [*(() if self.raw is None else RAW_COLUMNS), *self.method.statistics()]
            log = MetricsLog(self.out, names, at.epoch, at.step)
        try:
            with self.display, Interrupt() as interrupt:
                while self.position.epoch < self.epochs:
                    outcome = self._epoch(log, interrupt, stop_at)
                    if outcome is not Outcome.FINISHED:
                        return outcome
            return Outcome.FINISHED
        finally:
            if log is not None:
                log.close()

    def _epoch(self, log: MetricsLog | None, interrupt: Interrupt, stop_at: int | None) -> Outcome:
        start = time.perf_counter()
        # A checkpoint within an epoch holds the loader's state at the start of the epoch.
        loader_state = self.loaders.train.state_dict()
        meter = Meter(self.world.device, self.world.size, self.method.passes)
        stopped = self._train(meter, log, interrupt, stop_at)
        if stopped is not None:
            meter.read()  # raises if the loss is not finite, before anything is saved
            self._save(loader_state)
            return stopped
        self.method.epoch_finished(self.optimize)
        train = self._summed(meter)
        interrupt.held = False
        try:
            validation = self._validate(self.evaluated)
            raw = None if self.raw is None else self._validate(self.raw)
        except KeyboardInterrupt:
            self._save(loader_state)
            return Outcome.INTERRUPTED
        finally:
            interrupt.held = True

        at, clean = self.position, validation.clean
        at.epoch += 1
        is_best = clean.top1 > at.best_top1
        at.best_top1 = max(at.best_top1, clean.top1)
        raw_numbers = {}
        if raw is not None:
            numbers = (raw.clean.top1, raw.top5.top1, raw.loss)
            raw_numbers = dict(zip(RAW_COLUMNS, numbers, strict=True))
        statistics = self.method.statistics()
        mass = statistics.get("true_class_mass")
        seconds = time.perf_counter() - start
        kept = ["best.pt"] if is_best else []
        if self.keep_every is not None and at.epoch % self.keep_every == 0:
            kept.append(f"epoch-{at.epoch:03d}.pt")
        if log is not None:
            log.epoch(
                {
                    "epoch": at.epoch,
                    "step": at.step,
                    "train_loss": train.loss,
                    "train_acc": train.accuracy,
                    "val_top1": clean.top1,
                    "val_top5": validation.top5.top1,
                    "val_loss": validation.loss,
                    **raw_numbers,
                    "lr": self.optimize.last_lr,
                    "images_per_s": train.images_per_second,
                    "data_wait": train.data_wait,
                    "seconds": seconds,
                    **statistics,
                }
            )
            if self.method.beta is not None:
                log.histogram(at.step, "epoch/beta", self.method.beta)
        self._save(self.loaders.train.state_dict(), kept)  # after the row: see MetricsLog.epoch
        self.display.line(
            f"epoch {at.epoch}/{self.epochs} in {seconds:.1f} s: train loss {train.loss:.3f},"
            f" acc {100 * train.accuracy:.1f} %, {train.images_per_second:.1f} img/s;"
            f" validation loss {validation.loss:.3f}, top-1 {100 * clean.top1:.2f} %"
            f" ({clean.correct} of {clean.total}), top-5 {100 * validation.top5.top1:.2f} %"
            + ("" if raw is None else f", raw weights top-1 {100 * raw.clean.top1:.2f} %")
            + (" (best so far)" if is_best else "")
            + ("" if mass is None else f"; expected true-class mass {mass:.2f}")
        )
        if warning := self.method.warning():
            self.display.warn(warning)
        if interrupt.requested:
            return Outcome.INTERRUPTED
        if stop_at is not None and at.step >= stop_at:
            return Outcome.MAX_STEPS
        return Outcome.FINISHED

    def _train(
        self, meter: Meter, log: MetricsLog | None, interrupt: Interrupt, stop_at: int | None
    ) -> Outcome | None:
        """Train on an epoch's batches; return an outcome if that was stopped early, else None."""
        self.model.train()
        self.method.train()
        self.optimize.meter = meter
        first_step = self.position.epoch * self.steps_per_epoch
        # A run that resumes within an epoch skips the batches that it has been trained on.
        done = self.position.step - first_step
        skipped = done * self.optimize.accumulation_steps // self.method.passes
        if skipped:
            self.display.line(
                f"epoch {self.position.epoch + 1}: skipping {skipped} batches already trained; the"
                " epoch's averages cover the remaining ones"
            )
        title = f"epoch {self.position.epoch + 1}/{self.epochs}"
        self.display.start(title, self.steps_per_epoch, done)
        waiting_since = time.perf_counter()
        for index, (images, labels) in enumerate(self.loaders.train):
            # Batches beyond the last complete step are fetched too: a loader counts whole epochs.
            if skipped <= index < self.batches:
                meter.waited(time.perf_counter() - waiting_since)
                self.method.training_step(self.optimize, images, labels)
                self.position.step = self.optimize.steps
                done = self.position.step - first_step
                if self.optimize.between_steps:
                    if self.display.due():
                        self._show(meter, log, done)
                    if interrupt.requested:
                        return Outcome.INTERRUPTED
                    reached = stop_at is not None and self.position.step >= stop_at
                    if reached and done < self.steps_per_epoch:
                        self._show(meter, log, done)
                        return Outcome.MAX_STEPS
            waiting_since = time.perf_counter()
        if done != self.steps_per_epoch:
            raise FatalError(
                f"the loader returned fewer than the {len(self.loaders.train)} batches of an epoch"
            )
        return Outcome.INTERRUPTED if interrupt.requested else None

    def _show(self, meter: Meter, log: MetricsLog | None, step_in_epoch: int) -> None:
        now = meter.read()
        if not now.images:
            return
        statistics = self.method.statistics()
        lr = self.optimize.last_lr
        mass = statistics.get("true_class_mass")
        self.display.step(step_in_epoch, describe(now, meter.mean(), lr, mass))
        if log is not None:
            numbers = {"loss": now.loss, "accuracy": now.accuracy, "lr": lr}
            numbers |= {"images_per_s": now.images_per_second, "data_wait": now.data_wait}
            log.step(self.position.step, numbers | statistics)

    def _summed(self, meter: Meter) -> Reading:
        """Return the epoch's averages over all processes."""
        meter.read()
        loss, hits, images = self.world.sum(meter.sums().to(self.world.device)).tolist()
        images, mean = max(images, 1), meter.mean()
        averages = {"loss": loss / images, "accuracy": hits / images, "images": int(images)}
        return dataclasses.replace(mean, **averages)

    def _validate(self, model: nn.Module) -> MeasuredAccuracy:
        # Each process has batch norm statistics of its own; the checkpoint holds the first one's.
        if self.dist_bn != "none":
            self.world.share_buffers(model, self.dist_bn)
        validation = measure_accuracy(
            model,
            self.display.watched("validation", self.loaders.val),
            device=self.world.device,
            amp_dtype=self.optimize.amp_dtype,
        )
        if math.isnan(validation.loss):
            raise FatalError(
                f"validation loss is NaN after step {self.position.step}; the previous checkpoint"
                " is kept"
            )
        return validation

    def _save(self, loader_state: dict[str, Any], kept: Iterable[str] = ()) -> None:
        """Write last.pt and give it the names ``kept``, which the next one leaves as they are."""
        if self.out is None:
            return
        beta, ema = self.method.beta, self.optimize.ema
        content = {
            "model": self.model.state_dict(),
            "ema": None if ema is None else ema.module.state_dict(),
            "beta": None if beta is None else beta.detach().clone(),
            "optimizer": self.optimize.optimizer.state_dict(),
            "scheduler": self.optimize.scheduler.state_dict(),
            "scaler": self.optimize.scaler.state_dict(),
            "rng_state": checkpoint.rng_state(self.method, self.world.device),
            "loader": loader_state,
            "epoch": self.position.epoch,
            "step": self.position.step,
            "steps_per_epoch": self.steps_per_epoch,
            "best_top1": self.position.best_top1,
            "config": self.record,
        }
        checkpoint.save_checkpoint(self.out / "last.pt", content)
        for name in kept:
            checkpoint.link_checkpoint(self.out / "last.pt", self.out / name)

    def restore(self, content: Mapping[str, Any]) -> None:
        """Resume from the content of a checkpoint, with the optimizer options of this run.

        Raises:
            UserError: it was saved within an epoch that now has a different number of steps.
        """
        epoch, step, before = content["epoch"], content["step"], content["steps_per_epoch"]
        if before != self.steps_per_epoch:
            if step != epoch * before:
                raise UserError(
                    f"the checkpoint was saved at step {step - epoch * before} of {before} of an"
                    f" epoch, which now has {self.steps_per_epoch} steps: use the batch_size and"
                    " accumulation_steps that it was saved with"
                )
            step = epoch * self.steps_per_epoch
        self.model.load_state_dict(content["model"])
        self.optimize.restore(content, step)
        self.loaders.train.load_state_dict(content["loader"])
        checkpoint.restore_rng_state(content["rng_state"], self.method, self.world)
        self.position = Position(epoch, step, content["best_top1"])
