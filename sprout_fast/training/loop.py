"""The training loop, the same for all methods: it only calls a method's ``training_step``."""

from __future__ import annotations

import dataclasses
import enum
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sprout_fast.data import Loader, Loaders
from sprout_fast.distributed import LateMaximum, World
from sprout_fast.errors import FatalError, UserError
from sprout_fast.evaluation.accuracy import MeasuredAccuracy, measure_accuracy
from sprout_fast.methods import Method
from sprout_fast.training import checkpoint
from sprout_fast.training.checkpoint import BEST, LAST, CheckpointWriter, Saved
from sprout_fast.training.config import Interval
from sprout_fast.training.graph import CapturedStep
from sprout_fast.training.interrupt import Interrupt
from sprout_fast.training.meter import Meter, Reading
from sprout_fast.training.metrics import RAW_COLUMNS, MetricsLog, WandbRun
from sprout_fast.training.parallel import gathered, is_sharded, load_state, whole_weights
from sprout_fast.training.progress import Display, describe
from sprout_fast.training.step import OptimizeStep

# Data wait, as a fraction of the time, above which the loader is said to be too slow.
STARVED = 1 / 3


class Outcome(enum.Enum):
    """How :meth:`Trainer.fit` ended."""

    FINISHED = "finished"
    MAX_STEPS = "max_steps"
    INTERRUPTED = "interrupted"


@dataclass
class Position:
    """Completed epochs, optimizer steps, and the best validation accuracy so far, in [0,1].

    ``step`` counts the steps that a loss scaler skipped too; ``best_epoch`` is the number of the
    epoch, from 1, with the accuracy ``best_top1``.
    """

    epoch: int = 0
    step: int = 0
    best_top1: float = -1.0
    best_epoch: int = 0


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
        out: folder for checkpoints and metrics, or None. Only the first process writes to it; the
            others may save the state when their data fails.
        save_every: steps or seconds between checkpoints within an epoch, or None.
        keep_every: epochs between the checkpoints that are kept as ``epoch-NNN.pt``, or None.
        record: plain values for the checkpoint's ``config``.
        dist_bn: how batch norm's statistics are shared between processes before validation.
        display: where log lines go.
        interrupt: the signals that stop the run.
        captured: the method's training step as a CUDA graph, if it is to be one.
        wandb: gets the numbers too, if given.
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
    save_every: Interval | None = None
    keep_every: int | None = None
    dist_bn: Literal["none", "reduce", "broadcast"] = "broadcast"
    record: dict[str, Any]
    display: Display
    interrupt: Interrupt
    captured: CapturedStep | None = None
    wandb: WandbRun | None = None
    position: Position = field(default_factory=Position, init=False)

    def __post_init__(self) -> None:
        self.steps_per_epoch = self._steps(len(self.loaders.train))
        self._rescuer = None if self.out is None else CheckpointWriter(self.out, self.world.rank)
        self._writer = self._rescuer if self.world.is_main else None
        self._loader_state = self.loaders.train.state_dict()
        self._source: Path | None = None  # the checkpoint that the run resumes from
        self._sharded = is_sharded(self.model)
        self._finite_step = 0  # the last step at which all weights were found finite

    def _steps(self, batches: int) -> int:
        return steps_per_epoch(batches, self.optimize.accumulation_steps, self.method.passes)

    def fit(self, max_steps: int | None = None) -> Outcome:
        """Train for the remaining epochs, or for ``max_steps`` optimizer steps of them.

        Raises:
            FatalError: the loss or a weight is not finite, or the loss scaler skips every step. The
                previous checkpoint is kept.
            UserError: an image or a file is at fault; the steps before it are saved.
            KeyboardInterrupt: a second Ctrl-C.
        """
        stop_at = None if max_steps is None else self.position.step + max_steps
        log, self._saved_step = None, self.position.step
        self._saving_since = self.position.step, time.monotonic()
        self._any_signal = LateMaximum(self.world)
        if self._sharded:
            self._any_due = LateMaximum(self.world)
        if self._writer is not None:
            self._match_names(self._writer.folder)
            if self.save_every is not None and not self._sharded:
                self._writer.reserve(self._content())
            at = self.position
            names = [*(() if self.raw is None else RAW_COLUMNS), *self.method.statistics()]
            log = MetricsLog(self._writer.folder, names, at.epoch, at.step, self.wandb)
        try:
            with self.display, self.interrupt.installed(held=True):
                while self.position.epoch < self.epochs:
                    outcome = self._epoch(log, stop_at)
                    if outcome is not Outcome.FINISHED:
                        return outcome
            return Outcome.FINISHED
        except FatalError as error:
            raise FatalError(f"{error}; {self._last_good()}") from None
        finally:
            if log is not None:
                log.close()

    def _last_good(self) -> str:
        path = self._source
        if self._rescuer is not None:
            last = self._rescuer.folder / LAST
            good = self._rescuer.last_is_good if self.world.is_main else last.exists()
            path = last if good else path
        if path is None:
            return "no checkpoint has been saved"
        step = f", of step {self._saved_step}" if self.world.is_main else ""
        return f"the last good checkpoint is {path}{step}"

    def _epoch(self, log: MetricsLog | None, stop_at: int | None) -> Outcome:
        start = time.perf_counter()
        meter = Meter(self.world.device, self.world.size, self.method.passes)
        stopped = self._train(meter, log, stop_at)
        if self._writer is not None:
            self._report_saved(self._writer.wait())
        if stopped is not None:
            self._read(meter)  # raises if the loss is not finite, before anything is saved
            self._save()
            return stopped
        self.method.epoch_finished(self.optimize)
        train = self._summed(meter)
        # One process alone must not leave the others in validation.
        self.interrupt.held = self.world.size > 1
        try:
            validation = self._validate(self.evaluated)
            raw = None if self.raw is None else self._validate(self.raw)
        except KeyboardInterrupt:
            self._save()
            return Outcome.INTERRUPTED
        finally:
            self.interrupt.held = True

        at, clean = self.position, validation.clean
        at.epoch += 1
        is_best = clean.top1 > at.best_top1
        if is_best:
            at.best_top1, at.best_epoch = clean.top1, at.epoch
        raw_numbers = {}
        if raw is not None:
            numbers = (raw.clean.top1, raw.top5.top1, raw.loss)
            raw_numbers = dict(zip(RAW_COLUMNS, numbers, strict=True))
        statistics = self.method.statistics()
        mass = statistics.get("true_class_mass")
        seconds = time.perf_counter() - start
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
        self._loader_state = self.loaders.train.state_dict()
        self._save(self._names())  # after the row: see MetricsLog.epoch
        self.display.line(
            f"epoch {at.epoch}/{self.epochs} in {seconds:.1f} s: train loss {train.loss:.3f},"
            f" acc {100 * train.accuracy:.1f} %, {train.images_per_second:.1f} img/s;"
            f" validation loss {validation.loss:.3f}, top-1 {100 * clean.top1:.2f} %"
            f" ({clean.correct} of {clean.total}), top-5 {100 * validation.top5.top1:.2f} %"
            + ("" if raw is None else f", raw weights top-1 {100 * raw.clean.top1:.2f} %")
            + (" (best so far)" if is_best else "")
            + ("" if mass is None else f"; expected true-class mass {mass:.2f}")
            + self._skipped()
        )
        if warning := self.method.warning():
            self.display.warn(warning)
        if self._stopped(self._any_signal.now(self.interrupt.noted())):
            return Outcome.INTERRUPTED
        if stop_at is not None and at.step >= stop_at:
            return Outcome.MAX_STEPS
        return Outcome.FINISHED

    def _train(self, meter: Meter, log: MetricsLog | None, stop_at: int | None) -> Outcome | None:
        """Train on an epoch's batches; return an outcome if that was stopped early, else None."""
        self.model.train()
        self.method.train()
        self.optimize.meter = meter
        loader, epoch = self.loaders.train, self.position.epoch + 1
        first_step, batches = self.position.epoch * self.steps_per_epoch, loader.batches_left()
        done = self.position.step - first_step
        if loader.images_done:
            self.display.line(
                f"epoch {epoch}: continues after {loader.images_done:,} of its"
                f" {loader.num_images:,} images; its averages cover the remaining ones"
            )
        self.display.start(f"epoch {epoch}/{self.epochs}", self.steps_per_epoch, done)
        # Batches beyond the last complete step are fetched too: a loader counts whole epochs.
        usable = batches - batches % self.optimize.accumulation_steps
        self._loader_state, self._starved = loader.state_dict(), False
        waiting_since = time.perf_counter()
        for index, (images, labels) in enumerate(self._saving_on_error(loader), start=1):
            if index <= usable:
                meter.waited(time.perf_counter() - waiting_since)
                self._training_step(images, labels)
                self.position.step = self.optimize.steps
                done = self.position.step - first_step
                if self.optimize.between_steps:
                    self._loader_state = loader.state_dict(batches=index)
                    if self.optimize.detect_anomaly:
                        self._read(meter)
                    if self.display.due():
                        self._show(meter, log, done)
                    if self._stopped(self._any_signal.late(self.interrupt.noted())):
                        return Outcome.INTERRUPTED
                    reached = stop_at is not None and self.position.step >= stop_at
                    if reached and done < self.steps_per_epoch:
                        self._show(meter, log, done)
                        return Outcome.MAX_STEPS
                    self._save_within_epoch(meter)
            waiting_since = time.perf_counter()
        if done != self.steps_per_epoch:
            raise FatalError(f"the loader returned fewer than the {batches} batches of an epoch")
        signal = self._any_signal.now(self.interrupt.noted())
        return Outcome.INTERRUPTED if self._stopped(signal) else None

    def _training_step(self, images: Tensor, labels: Tensor) -> None:
        detect = self.optimize.detect_anomaly or torch.is_anomaly_enabled()
        try:
            with torch.autograd.set_detect_anomaly(detect):
                if self.captured is None:
                    self.method.training_step(self.optimize, images, labels)
                else:
                    self.captured(images, labels)
        except RuntimeError as error:
            if "returned nan" not in str(error):
                raise
            step = self.optimize.steps + 1
            raise FatalError(f"gradients not finite at step {step}: {error}") from None

    def _stopped(self, signal: int) -> bool:
        """Return whether any process got a signal, ``signal``, so that all stop."""
        self.interrupt.signal = self.interrupt.signal or signal
        return signal != 0

    def _saving_on_error(self, loader: Loader) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of ``loader``; if one fails, save the steps before it."""
        batches = iter(loader)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except Exception as error:
                step = self.position.step
                unsaved = step != self._saved_step and self.optimize.between_steps
                if self._rescuer is None or not unsaved or self._sharded:
                    raise
                # All processes have the same weights, so the one that fails can save them.
                self._rescuer.save(self._content())
                last = self._rescuer.folder / LAST
                if not isinstance(error, UserError):
                    self.display.line(f"saved step {step} in {last}")
                    raise
                saved = f"{error.message}; step {step} is saved in {last}"
                raise UserError(saved, option=error.option) from None
            yield batch

    def _save_within_epoch(self, meter: Meter) -> None:
        if self.save_every is None:
            return
        due = self._save_is_due()
        if self._sharded:  # all take part, a step after the first process has found it due
            due = self._any_due.late(int(due)) > 0
        if due and (content := self._whole_content()) is not None and self._writer is not None:
            self._writer.save_in_background(content, meter.bad_step)

    def _save_is_due(self) -> bool:
        if self._writer is None or self.save_every is None:
            return False
        self._report_saved(self._writer.finished())
        steps, seconds = self.save_every
        since_step, since_time = self._saving_since
        due = steps is not None and self.position.step - since_step >= steps
        due |= seconds is not None and time.monotonic() - since_time >= seconds
        if not due or self._writer.busy:
            return False
        self._saving_since = self.position.step, time.monotonic()
        return True

    def _report_saved(self, saved: Saved | None) -> None:
        if saved is not None:
            self._saved_step = saved.step
            self.display.line(
                f"saved step {saved.step}: training paused for {1000 * saved.pause:.0f} ms, written"
                f" in {saved.writing:.1f} s"
            )

    def _read(self, meter: Meter) -> Reading:
        """Return the averages since the last reading.

        Raises:
            FatalError: a loss, a weight or beta is not finite.
        """
        step, beta = self.position.step, self.method.beta
        bad = checkpoint.nonfinite({"model": self.model.state_dict(), "beta": beta})
        found = f"{checkpoint.listed(bad)} not finite at step {step}" if bad else ""
        try:
            reading = meter.read()
        except FatalError as error:
            raise FatalError(f"{error}; {found}" if bad else str(error)) from None
        if bad:
            raise FatalError(f"{found}, finite at step {self._finite_step}")
        self._finite_step = step
        return reading

    def _show(self, meter: Meter, log: MetricsLog | None, step_in_epoch: int) -> None:
        first = not meter.mean().images
        now = self._read(meter)
        if not now.images:
            return
        statistics = self.method.statistics()
        lr = self.optimize.last_lr
        mass = statistics.get("true_class_mass")
        self.display.step(
            step_in_epoch, describe(now, meter.mean(), lr, mass) + self._skipped("  ")
        )
        if now.data_wait > STARVED and not first and not self._starved:
            self._starved = True  # once per epoch; the first reading has the loader's start in it
            wanted = now.images_per_second / (1 - min(now.data_wait, 0.99))
            self.display.warn(
                f"step {self.position.step}: {100 * now.data_wait:.0f} % of the time is spent"
                f" waiting for data: the loader gives {now.images_per_second:.1f} img/s, training"
                f" alone would use {wanted:.1f} img/s; raise workers or move the data closer"
            )
        if log is not None:
            numbers = {"loss": now.loss, "accuracy": now.accuracy, "lr": lr}
            numbers |= {"images_per_s": now.images_per_second, "data_wait": now.data_wait}
            if self.optimize.scaler.is_enabled():
                numbers["skipped_steps"] = self.optimize.skipped
            log.step(self.position.step, numbers | statistics)

    def _skipped(self, separator: str = "; ") -> str:
        """Return how many steps the loss scaler skipped, for a log line; empty if none."""
        count = self.optimize.skipped
        return f"{separator}{count} step{'s'[: count > 1]} skipped by the loss scaler" * (count > 0)

    def _summed(self, meter: Meter) -> Reading:
        """Return the epoch's averages over all processes."""
        self._read(meter)
        loss, hits, images = self.world.sum(meter.sums().to(self.world.device)).tolist()
        mean = meter.mean()
        if not images:  # all of the epoch's steps were made before the run was resumed
            return mean
        averages = {"loss": loss / images, "accuracy": hits / images, "images": int(images)}
        return dataclasses.replace(mean, **averages)

    def _validate(self, model: nn.Module) -> MeasuredAccuracy:
        # Each process has batch norm statistics of its own; the checkpoint holds the first one's.
        if self.dist_bn != "none":
            self.world.share_buffers(model, self.dist_bn)
        with whole_weights(model):
            validation = measure_accuracy(
                model,
                self._validation_batches(),
                device=self.world.device,
                amp_dtype=self.optimize.amp_dtype,
            )
        if math.isnan(validation.loss):
            raise FatalError(f"validation loss is NaN after step {self.position.step}")
        return validation

    def _validation_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        loader, size = self.loaders.val, self.world.size
        # Every process has at least this many, so all stop after the same one.
        common = -(-(loader.num_images // size) // loader.batch_size) if size > 1 else 0
        for index, batch in enumerate(self.display.watched("validation", loader)):
            signal = self._any_signal.late(self.interrupt.noted()) if index < common else 0
            if self._stopped(signal):
                raise KeyboardInterrupt
            yield batch

    def _content(self) -> dict[str, Any]:
        """Return what a checkpoint holds; its tensors are those of the run."""
        beta, ema, at = self.method.beta, self.optimize.ema, self.position
        return {
            "model": self.model.state_dict(),
            "ema": None if ema is None else ema.module.state_dict(),
            "beta": None if beta is None else beta.detach().clone(),
            "optimizer": self.optimize.optimizer.state_dict(),
            "scaler": self.optimize.scaler.state_dict(),
            "rng_state": checkpoint.rng_state(self.method, self.world.device),
            "loader": self._loader_state,
            "epoch": at.epoch,
            "step": at.step,
            "steps_per_epoch": self.steps_per_epoch,
            "skipped_steps": self.optimize.skipped,
            "best_top1": at.best_top1,
            "best_epoch": at.best_epoch,
            "config": self.record,
        }

    def _whole_content(self) -> dict[str, Any] | None:
        """Return ``_content`` in the process that writes checkpoints, and None in the others.

        Sharded tensors are gathered on its host, for which all processes call this.
        """
        if self._sharded:
            content = gathered(self._content(), keep=self._writer is not None)
            return None if self._writer is None else content
        return None if self._writer is None else self._content()

    def _save(self, names: list[str] | None = None) -> None:
        """Write last.pt and give it the ``names``, which the next one leaves as they are."""
        content = self._whole_content()
        if content is not None and self._writer is not None:
            self._writer.save(content, names or [])
        self._saved_step = self.position.step
        self._saving_since = self._saved_step, time.monotonic()

    def _names(self) -> list[str]:
        """Return the further names of the checkpoint at the end of an epoch."""
        at = self.position
        names = [BEST] if at.best_epoch == at.epoch else []
        if self.keep_every is not None and at.epoch % self.keep_every == 0:
            names.append(f"epoch-{at.epoch:03d}.pt")
        return names

    def _match_names(self, folder: Path) -> None:
        """Make ``best.pt`` and ``best_top1`` agree, after a kill between writing the two or a
        return to an earlier checkpoint."""
        at = self.position
        if self._source is None or not at.epoch:
            return
        if at.step == at.epoch * self.steps_per_epoch:
            for name in self._names():
                checkpoint.link_checkpoint(self._source, folder / name)
        try:
            found = checkpoint.read_run_checkpoint(folder / BEST)
        except UserError:
            found = {"best_top1": -1.0, "best_epoch": 0}  # the next epoch writes one
        at.best_top1, at.best_epoch = found["best_top1"], found["best_epoch"]

    def restore(self, content: Mapping[str, Any], source: Path | None = None) -> None:
        """Resume from the content of a checkpoint, with the optimizer options of this run.

        Args:
            content: the content; every tensor in it is checked before it is used.
            source: its file, from :func:`~sprout_fast.training.checkpoint.read_run_checkpoint`.

        Raises:
            UserError: a part has other names, types, shapes or dtypes than this run's, or values
                that are not finite.
        """
        self._check(content, "checkpoint" if source is None else str(source))
        loader = self.loaders.train
        loader.load_state_dict(content["loader"])
        self._loader_state = loader.state_dict()
        epoch, before, stored = content["epoch"], content["steps_per_epoch"], content["step"]
        # The rest of the epoch may have another number of steps, and its end is what counts.
        step = (epoch + 1) * self.steps_per_epoch - self._steps(loader.batches_left())
        if not loader.images_done and stored > epoch * before:
            self.display.line(
                f"epoch {epoch + 1}: starts again, since the order of its images depends on the"
                " seed and their number, which have changed"
            )
        load_state(self.model, content["model"])
        skipped = round(content["skipped_steps"] * self.steps_per_epoch / before)
        self.optimize.restore(content, step, skipped)
        checkpoint.restore_rng_state(content["rng_state"], self.method, self.world)
        self.position = Position(epoch, step, content["best_top1"], content["best_epoch"])
        self._finite_step, self._source = step, source
        if self._writer is not None and source is not None:
            self._writer.last_is_good = source == self._writer.folder / LAST

    def _check(self, content: Mapping[str, Any], where: str) -> None:
        own, random = self._content(), content["rng_state"]
        cuda = random.get("cuda")
        if isinstance(cuda, list) and not (cuda and own["rng_state"]["cuda"]):
            own["rng_state"]["cuda"] = cuda  # saved on another device
        method, own_method = random.get("method"), own["rng_state"]["method"]
        for key, wanted in own_method.items() if isinstance(method, Mapping) else ():
            # Empty until the first batch, whose shape it then has.
            found = method.get(key)
            if isinstance(found, Tensor) and not wanted.numel() and found.dtype == wanted.dtype:
                own_method[key] = found
        # A run may have averages, a momentum or a loss scale that the checkpoint lacks.
        for name in ("model", "beta", "rng_state", "loader"):
            checkpoint.check_like(content[name], own[name], f"{where}: {name}")
        for name in ("ema", "scaler"):
            if content[name] and own[name]:
                checkpoint.check_like(content[name], own[name], f"{where}: {name}")
        checkpoint.check_keys(content["optimizer"], own["optimizer"], f"{where}: optimizer")
        if not isinstance(state := content["optimizer"]["state"], Mapping):
            got = type(state).__name__
            raise UserError(f"{where}: optimizer.state: got {got}, expected a dict")
        if state:
            total = sum(len(group["params"]) for group in self.optimize.optimizer.param_groups)
            checkpoint.check_keys(state, range(total), f"{where}: optimizer.state")
            names = {id(parameter): name for name, parameter in self.model.named_parameters()}
            for number, (parameter, wanted) in self.optimize.optimizer_state().items():
                name = names[id(parameter)]
                checkpoint.check_like(state[number], dict(wanted), f"{where}: optimizer of {name}")
        if content["loader"]["epoch"] != content["epoch"]:
            raise UserError(f"{where}: loader.epoch differs from epoch")
