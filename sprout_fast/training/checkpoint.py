"""Checkpoints of a run: written whole, checked before use, and the random states in them."""

from __future__ import annotations

import errno
import math
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sprout_fast.distributed import World
from sprout_fast.errors import FatalError, UserError
from sprout_fast.files import atomic_write
from sprout_fast.models import CHECKPOINT_FORMAT, read_checkpoint
from sprout_fast.models.torch_file import has_checksum, write_torch_file
from sprout_fast.training.parallel import local

LAST, PREVIOUS, BEST = "last.pt", "last.previous.pt", "best.pt"

# Errors of file systems without hard links, and of links from one file system to another.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)

# The parts of a checkpoint, with the types of those that are plain values.
_PARTS: dict[str, type | None] = {
    "format": str,
    "model": dict,
    "ema": None,
    "beta": None,
    "optimizer": dict,
    "scaler": dict,
    "rng_state": dict,
    "loader": dict,
    "epoch": int,
    "step": int,
    "steps_per_epoch": int,
    "skipped_steps": int,
    "best_top1": float,
    "best_epoch": int,
    "config": dict,
}


def save_checkpoint(
    path: Path, content: dict[str, Any], previous: Path | None = None, tag: str = ""
) -> None:
    """Write ``content`` to ``path``, which then holds the new checkpoint or still the old one.

    The old one, if any, is also kept as ``previous``. ``tag`` is that of :func:`atomic_write`.

    Raises:
        UserError: the folder is full or read-only; no temporary file is left.
    """
    try:
        with atomic_write(path, tag) as temporary:
            write_torch_file({"format": CHECKPOINT_FORMAT, **content}, temporary)
            if previous is not None and path.exists():
                with open(temporary, "rb") as file:  # a full disk is found before the old one moves
                    os.fsync(file.fileno())
                link_checkpoint(path, previous)
    except Exception as error:
        # torch's zip writer reports a failed write as a RuntimeError of its own, raised while the
        # OSError was handled.
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError) and not isinstance(error, UserError):
            raise _cannot_write(path, cause) from error
        raise


def link_checkpoint(source: Path, path: Path) -> None:
    """Make ``path`` a second name of the checkpoint ``source``, or raise as save_checkpoint does.

    A link is enough, because checkpoints are replaced and never modified; on a file system without
    links it is a copy.
    """
    try:
        with atomic_write(path) as temporary:
            try:
                os.link(source, temporary)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                shutil.copyfile(source, temporary)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> UserError:
    kept = "; the previous one is kept" if path.exists() else ""
    return UserError(f"{path}: cannot be written: {error.strerror}{kept}")


class Saved(NamedTuple):
    """A checkpoint that was written in the background."""

    step: int
    pause: float  # seconds that training waited while the state was copied
    writing: float  # seconds


class CheckpointWriter:
    """Writes the checkpoints of a run, at once or in a thread alongside training.

    Nothing is written of weights, momenta or averages that are not finite. The checkpoint that
    ``last.pt`` replaces is kept as ``last.previous.pt``.

    Args:
        folder: the run's folder.
        rank: number of this process, whose temporary files are its own.

    Attributes:
        last_is_good: whether the present ``last.pt`` was written or read by this run, so that it
            may replace ``last.previous.pt``.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder, self.last_is_good = folder, False
        self._tag = f".rank{rank}" if rank else ""
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[Saved] | None = None
        self._copies: dict[str, Tensor] = {}

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written in the background."""
        return self._pending is not None

    def save(self, content: dict[str, Any], names: Iterable[str] = ()) -> None:
        """Write ``last.pt`` and give it the ``names`` too, which the next one leaves as they are.

        Raises:
            FatalError: a tensor is not finite.
            UserError: a file cannot be written.
        """
        self.wait()
        self._write(content)
        for name in names:
            link_checkpoint(self.folder / LAST, self.folder / name)

    def reserve(self, content: dict[str, Any]) -> None:
        """Allocate the memory of ``save_in_background``, which is most of its first pause."""
        _copied({"content": content}, self._copies)

    def save_in_background(self, content: dict[str, Any], bad_step: Tensor) -> None:
        """Copy ``content`` to the host, and write it to ``last.pt`` while training continues.

        ``bad_step``, an integer on the device, is the first step with a loss that is not finite, or
        negative. Errors are raised by :meth:`finished` or :meth:`wait`.
        """
        self.wait()
        start, events = time.perf_counter(), []
        if bad_step.is_cuda:  # the pause is that of the stream, which copies after earlier steps
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            events[0].record()
        copy = _copied({"content": content, "bad_step": bad_step}, self._copies)
        if events:
            events[1].record()
        pause = time.perf_counter() - start
        self._pending = self._thread.submit(self._write_copy, copy, pause, events)

    def _write_copy(self, copy: dict[str, Any], pause: float, events: list[Any]) -> Saved:
        if events:
            events[1].synchronize()
            pause = max(pause, events[0].elapsed_time(events[1]) / 1000)
        start = time.perf_counter()
        if (step := int(copy["bad_step"])) >= 0:
            raise FatalError(f"training loss is not finite at step {step}")
        self._write(copy["content"])
        return Saved(copy["content"]["step"], pause, time.perf_counter() - start)

    def finished(self) -> Saved | None:
        """Return what was written in the background since the last call, or None; do not wait."""
        if self._pending is None or not self._pending.done():
            return None
        return self.wait()

    def wait(self) -> Saved | None:
        """Wait until nothing is being written; return what was, or raise its error."""
        pending, self._pending = self._pending, None
        return None if pending is None else pending.result()

    def _write(self, content: dict[str, Any]) -> None:
        checked = {part: content[part] for part in ("model", "ema", "beta", "optimizer")}
        if bad := nonfinite(checked):
            raise FatalError(f"not finite after step {content['step']}: {listed(bad)}")
        previous = self.folder / PREVIOUS if self.last_is_good else None
        save_checkpoint(self.folder / LAST, content, previous, self._tag)
        self.last_is_good = True


def _copied(value: Any, copies: dict[str, Tensor], where: str = "") -> Any:
    """Return ``value`` with its tensors copied to the host, into ``copies`` where they fit."""
    if isinstance(value, Tensor):
        copy = copies.get(where)
        if copy is None or (copy.shape, copy.stride(), copy.dtype) != (
            value.shape,
            value.stride(),
            value.dtype,
        ):
            copy = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
            copies[where] = copy
        return copy.copy_(value, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: _copied(item, copies, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item, copies, f"{where}.{i}") for i, item in enumerate(value)]
    return value


def nonfinite(value: Any) -> list[str]:
    """Return the names of the floating tensors in ``value`` that have a NaN or an infinity.

    >>> nonfinite({"model": {"weight": torch.tensor([1.0, math.inf]), "bias": torch.zeros(2)}})
    ['model.weight']
    """
    floating = [(n, t) for n, t in _tensors(value) if t.is_floating_point() and t.numel()]
    if not floating:
        return []
    names, tensors = zip(*floating, strict=True)
    # A few kernels and one wait for the device, and no memory. NaN passes on to the norm.
    largest = torch._foreach_norm(tensors, float("inf"))  # pyright: ignore
    finite = torch.stack([norm.float() for norm in largest]).isfinite().tolist()
    return [name for name, is_finite in zip(names, finite, strict=True) if not is_finite]


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, local(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{name}.{key}" if name else str(key))


def listed(names: list[str]) -> str:
    """Return the first names of a list, and how many more there are.

    >>> listed(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")


def read_run_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint that a run can resume from, with all its parts.

    Raises:
        UserError: the file is damaged or is no such checkpoint; the one before it is offered.
    """
    try:
        content = read_checkpoint(path)
        if not has_checksum(path):
            raise UserError(f"{path}: is damaged: it has no checksum")
        check_keys(content, _PARTS, str(path))
        for name, kind in _PARTS.items():
            exact = kind in (int, float)  # and no bool
            if kind is not None and not (
                type(content[name]) is kind if exact else isinstance(content[name], kind)
            ):
                got = type(content[name]).__name__
                raise UserError(f"{path}: {name}: got {got}, expected {kind.__name__}")
        if not -1 <= content["best_top1"] <= 1:  # written so that NaN fails too
            raise UserError(f"{path}: best_top1: got {content['best_top1']}, expected at most 1")
        epoch, step, steps = content["epoch"], content["step"], content["steps_per_epoch"]
        if epoch < 0 or steps < 1 or not 0 <= step - epoch * steps <= steps:
            raise UserError(f"{path}: step {step} is not one of epoch {epoch} of {steps} steps")
    except UserError as error:
        before = path.with_name(PREVIOUS)
        if path.name == LAST and before.exists():
            raise UserError(f"{error.message}; the checkpoint before it is {before}") from None
        raise
    return content


def newest_checkpoint(folder: Path) -> tuple[Path | None, dict[str, Any] | None, list[str]]:
    """Return the newest good checkpoint of a run, its content, and what is wrong with newer ones.

    Both are None in a folder without checkpoints.

    Raises:
        UserError: there are checkpoints, but none is good.
    """
    first = [folder / LAST, folder / PREVIOUS]
    others = sorted(folder.glob("*.pt"), key=lambda path: -path.stat().st_mtime)
    found = [path for path in first if path.exists()]
    found += [path for path in others if path not in first]
    problems: list[str] = []
    for path in found:
        try:
            return path, read_run_checkpoint(path), problems
        except UserError as error:
            problems.append(error.message)
    if problems:
        raise UserError(f"{folder}: no checkpoint is good: {'; '.join(problems)}", option="resume")
    return None, None, []


def check_keys(found: Mapping[Any, Any], wanted: Iterable[Any], where: str) -> None:
    """Check that the keys of ``found`` are those of ``wanted``, or raise a UserError."""
    wanted = list(wanted)
    if missing := [str(key) for key in wanted if key not in found]:
        raise UserError(f"{where}: lacks {listed(missing)}")
    if foreign := [str(key) for key in found if key not in wanted]:
        raise UserError(f"{where}: has {listed(foreign)}, which this run does not know")


def check_like(found: Any, wanted: Any, where: str) -> None:
    """Check ``found``: keys, types, shapes and dtypes are those of ``wanted``; values are finite.

    Raises:
        UserError: the first difference, named by its place after ``where``.

    >>> check_like({"weight": torch.ones(1)}, {"weight": torch.zeros(3)}, "last.pt: model")
    Traceback (most recent call last):
    sprout_fast.errors.UserError: last.pt: model.weight: got float32 [1], expected float32 [3]
    """
    got, expected = _kind(found), _kind(wanted)
    if got != expected:
        raise UserError(f"{where}: got {got}, expected {expected}")
    if isinstance(wanted, Tensor):
        if wanted.is_floating_point() and not found.isfinite().all():
            raise UserError(f"{where}: has values that are not finite")
    elif isinstance(wanted, Mapping):
        check_keys(found, wanted, where)
        for key, item in wanted.items():
            check_like(found[key], item, f"{where}.{key}")
    elif isinstance(wanted, list):
        for index, (one, two) in enumerate(zip(found, wanted, strict=True)):
            check_like(one, two, f"{where}.{index}")
    elif isinstance(wanted, float) and not math.isfinite(found):
        raise UserError(f"{where}: got {found}, expected a finite number")


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        unusual = value.layout is not torch.strided or value.is_meta or value.is_quantized
        return f"{str(value.dtype)[6:]} {list(value.shape)}" + " of an unusual layout" * unusual
    if isinstance(value, Mapping):
        return "a dict"
    return f"a list of {len(value)}" if isinstance(value, list) else type(value).__name__


def rng_state(method: nn.Module, device: torch.device) -> dict[str, Any]:
    """Return every random state of this process: the method's, torch's, and the GPU's."""
    return {
        "method": method.state_dict(),
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device)] if device.type == "cuda" else [],
    }


def restore_rng_state(state: dict[str, Any], method: nn.Module, world: World) -> None:
    """Restore the result of :func:`rng_state`, saved by the first process, in every process.

    The method's random streams continue exactly, in each process at its own rows of the batch.
    torch's generator, which dropout uses, continues in the first process; the others keep their
    seeds.
    """
    method.load_state_dict(state["method"])
    if world.is_main:
        torch.set_rng_state(state["torch"])
        if state["cuda"] and world.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"][0], world.device)
