"""A run's numbers: metrics.csv, one row per epoch, TensorBoard, W&B, and beta's figure."""

from __future__ import annotations

import contextlib
import csv
import os
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from sprout_fast.errors import UserError
from sprout_fast.files import atomic_write
from sprout_fast.methods.sprout import LOW_MASS

COLUMNS = (
    "epoch",
    "step",
    "train_loss",
    "train_acc",
    "val_top1",
    "val_top5",
    "val_loss",
    "lr",
    "images_per_s",
    "data_wait",
    "seconds",
)
# Of the raw weights, where those columns are of the averaged ones.
RAW_COLUMNS = ("val_top1_raw", "val_top5_raw", "val_loss_raw")


class MetricsLog:
    """Writer of ``metrics.csv`` and TensorBoard events.

    Accuracies, data wait and true-class mass are fractions in [0,1]; losses are in nats.

    Args:
        out: the run's folder.
        statistics: names of the method's own columns, which follow the common ones.
        epoch, step: where the run resumes. Rows and events after that, written between the last
            checkpoint and an interruption, are dropped.
        wandb: also gets the numbers, if given.

    Raises:
        UserError: the folder is full, read-only or gone.
    """

    def __init__(
        self,
        out: Path,
        statistics: Iterable[str] = (),
        epoch: int = 0,
        step: int = 0,
        wandb: WandbRun | None = None,
    ) -> None:
        self._path, self._wandb = out / "metrics.csv", wandb
        self._columns = (*COLUMNS, *statistics)
        rows = _read(self._path) if self._path.exists() else []
        try:
            with atomic_write(self._path) as temporary, open(temporary, "w", newline="") as file:
                # A run resumed with other options of its method may have other columns.
                writer = csv.DictWriter(file, self._columns, extrasaction="ignore")
                writer.writeheader()
                writer.writerows(row for row in rows if int(row["epoch"]) <= epoch)
            self._events = SummaryWriter(str(out), purge_step=step + 1 if step else None)
        except OSError as error:
            raise _cannot_write(self._path, error) from error
        threading.excepthook = _without_event_writer

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of optimizer step ``step`` to TensorBoard and W&B."""
        if self._wandb is not None:
            self._wandb.log("train", step, values)
        with self._writing_events() as events:
            for name, value in values.items():
                events.add_scalar(f"train/{name}", value, step)

    def epoch(self, values: Mapping[str, float]) -> None:
        """Append a row, a value for each column, to metrics.csv, and log it elsewhere.

        Call it before the epoch's checkpoint is saved: a run killed in between repeats the epoch
        and its row, where one killed the other way round would have no row for it.
        """
        rounded = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in values.items()}
        try:
            with open(self._path, "r+", newline="") as file:  # never a new file without a header
                file.seek(0, os.SEEK_END)
                csv.DictWriter(file, self._columns).writerow(rounded)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _cannot_write(self._path, error) from error
        if self._wandb is not None:
            self._wandb.log("epoch", int(values["step"]), values)
        with self._writing_events() as events:
            for name, value in values.items():
                if name not in ("epoch", "step"):
                    events.add_scalar(f"epoch/{name}", value, int(values["step"]))
            events.flush()

    def histogram(self, step: int, name: str, values: Tensor) -> None:
        """Write the distribution of ``values`` to TensorBoard."""
        with self._writing_events() as events:
            events.add_histogram(name, values, step)

    def close(self) -> None:
        """Close the event file."""
        with contextlib.suppress(OSError):  # which has ended the run already
            self._events.close()

    @contextlib.contextmanager
    def _writing_events(self) -> Iterator[SummaryWriter]:
        try:
            yield self._events
        except OSError as error:  # of an earlier write, since a thread writes
            raise _cannot_write(self._path.with_name("events.out.tfevents"), error) from error


class WandbRun(contextlib.AbstractContextManager):
    """A run's record at Weights & Biases, which the same run continues after it was stopped.

    W&B's own environment variables apply: ``WANDB_PROJECT`` (``sprout_fast`` by default),
    ``WANDB_MODE=offline`` and so on. Its files are in the run's folder. Numbers are plotted over
    the optimizer's step; W&B keeps those that a killed run logged after its last checkpoint.

    Args:
        out: the run's folder.
        config: plain values.

    Raises:
        UserError: W&B refuses, for example since nobody has logged in.
    """

    def __init__(self, out: Path, config: Mapping[str, Any]) -> None:
        wandb = wandb_package()
        self._status = 0
        identity = out / "wandb" / "id"
        identity.parent.mkdir(exist_ok=True)
        if not identity.exists():
            with atomic_write(identity) as temporary:
                temporary.write_text(uuid.uuid4().hex[:12])
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "sprout_fast"),
                id=identity.read_text(),
                name=os.environ.get("WANDB_NAME", out.name),
                dir=str(out),
                config=dict(config),
                resume="allow",
            )
        except wandb.errors.Error as error:
            reason = " ".join(str(error).split()).rstrip(".")
            hint = "run wandb login first, or set WANDB_MODE=offline"
            raise UserError(f"wandb: {reason}: {hint}", option="tracker") from error
        self._run.define_metric("*", step_metric="step")

    def log(self, group: str, step: int, values: Mapping[str, float]) -> None:
        """Log numbers of optimizer step ``step`` under the names ``GROUP/NAME``."""
        named = {f"{group}/{name}": value for name, value in values.items() if name != "step"}
        self._run.log({"step": step, **named})

    def preempted(self, status: int) -> None:
        """Record that the run was stopped by a signal, with this exit status."""
        self._run.mark_preempting()
        self._status = status

    def __exit__(self, kind: type | None, *error: object) -> None:
        """Finish, as failed after an exception."""
        self._run.finish(exit_code=self._status if kind is None else 1)


def wandb_package() -> Any:
    """Import W&B, or raise a UserError that says how to install it."""
    try:
        import wandb  # pyright: ignore[reportMissingImports]  (optional)
        from wandb import init  # noqa: F401  # pyright: ignore  (not in a folder of that name)
    except ImportError as error:
        reason = f"wandb: cannot be imported ({error}): pip install wandb"
        raise UserError(reason, option="tracker") from None
    return wandb


def _without_event_writer(args: threading.ExceptHookArgs) -> None:
    """Print the exception that ended a thread, except TensorBoard's, which the next call raises."""
    if type(args.thread).__name__ != "_AsyncWriterThread":
        threading.__excepthook__(args)


def _read(path: Path) -> list[dict[str, str]]:
    """Return the rows, the last one of each epoch, without one that a killed process left torn."""
    with open(path, newline="", errors="replace") as file:
        lines = [line for line in file if line.endswith("\n")]
    table = csv.DictReader(lines)
    rows = [row for row in table if None not in row and None not in row.values()]
    by_epoch = {int(row["epoch"]): row for row in rows if row.get("epoch", "").isdecimal()}
    return list(by_epoch.values())


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be written: {error.strerror}")


def plot_beta(metrics: Path, path: Path) -> None:
    """Plot beta's range and the expected true-class mass per epoch, if there are any epochs."""
    from matplotlib.figure import Figure  # a second to import, and needs no display

    rows = _read(metrics)
    if not rows:  # resumed into another folder, and no epoch has ended there
        return
    epochs, marker = [int(row["epoch"]) for row in rows], "o" if len(rows) < 30 else None
    names = ("beta_min", "beta_max", "beta_mean", "true_class_mass")
    low, high, mean, mass = ([float(row[name]) for row in rows] for name in names)
    figure = Figure(figsize=(7, 6), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    above.fill_between(epochs, low, high, alpha=0.25, lw=0)
    above.plot(epochs, mean, marker=marker)
    above.set(ylabel="β: mean and range over classes", ylim=(0, None))
    below.plot(epochs, mass, marker=marker)
    below.axhline(LOW_MASS, color="tab:red", ls="--", lw=1)
    text, style = "below this, labels hardly name the true class", {"fontsize": "small"}
    style |= {"color": "tab:red", "textcoords": "offset points"}
    below.annotate(text, (epochs[0], LOW_MASS), (0, 3), **style)
    below.set(xlabel="epoch", ylabel="expected true-class mass", ylim=(0, 1.02))
    below.xaxis.get_major_locator().set_params(integer=True)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
