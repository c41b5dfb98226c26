"""Checkpoints are complete or absent, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import copy
import errno
import math
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_run import assert_same, make_trainer

from sprout_fast.distributed import World
from sprout_fast.errors import FatalError, UserError
from sprout_fast.evaluation.accuracy import Accuracy, MeasuredAccuracy
from sprout_fast.methods import MethodSetting, build_method
from sprout_fast.models import read_checkpoint
from sprout_fast.training.checkpoint import (
    CheckpointWriter,
    _copied,
    link_checkpoint,
    newest_checkpoint,
    read_run_checkpoint,
    restore_rng_state,
    rng_state,
    save_checkpoint,
)
from sprout_fast.training.loop import Outcome, Trainer


def content(value: float, size: int = 8) -> dict:
    return {"model": {"weight": torch.full((size,), value)}, "epoch": int(value)}


def test_a_checkpoint_reads_back_safely(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.pt", content(3))
    read = read_checkpoint(tmp_path / "last.pt")  # torch.load(weights_only=True)
    assert read["epoch"] == 3 and torch.equal(read["model"]["weight"], torch.full((8,), 3.0))
    assert os.listdir(tmp_path) == ["last.pt"]


def test_best_is_unchanged_when_last_is_replaced(tmp_path: Path) -> None:
    last, best = tmp_path / "last.pt", tmp_path / "best.pt"
    for value in (1, 2, 3):
        save_checkpoint(last, content(value))
        if value != 3:
            link_checkpoint(last, best)
    assert (read_checkpoint(last)["epoch"], read_checkpoint(best)["epoch"]) == (3, 2)
    assert sorted(os.listdir(tmp_path)) == ["best.pt", "last.pt"]


def test_temporary_files_of_a_killed_process_are_overwritten(tmp_path: Path) -> None:
    last, best = tmp_path / "last.pt", tmp_path / "best.pt"
    for name in (".last.pt.tmp", ".best.pt.tmp"):  # killed between write and rename
        (tmp_path / name).write_bytes(b"part of a checkpoint")
    for value in (1, 2):
        save_checkpoint(last, content(value))
        link_checkpoint(last, best)
        link_checkpoint(last, best)  # killed after the rename, and the epoch trained again
        assert read_checkpoint(best)["epoch"] == value
    assert sorted(os.listdir(tmp_path)) == ["best.pt", "last.pt"]


def test_best_is_a_copy_on_a_file_system_without_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(source: Path, path: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    save_checkpoint(tmp_path / "last.pt", content(4))
    link_checkpoint(tmp_path / "last.pt", tmp_path / "best.pt")
    assert read_checkpoint(tmp_path / "best.pt")["epoch"] == 4


# A limit on the size of files makes a real write fail halfway, like a full disk.
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import torch
from sprout_fast.errors import UserError
from sprout_fast.training.checkpoint import save_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    save_checkpoint(Path(sys.argv[1]), {"model": torch.ones(1_000_000)})
except UserError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="sets a POSIX limit on the size of files")
def test_a_write_that_fails_halfway_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    last = tmp_path / "last.pt"
    save_checkpoint(last, content(1))
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(last)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    assert str(last) in done.stdout and "cannot be written" in done.stdout
    assert "previous one is kept" in done.stdout
    assert os.listdir(tmp_path) == ["last.pt"] and read_checkpoint(last)["epoch"] == 1


def test_a_disk_that_is_full_at_fsync_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:  # the data fits into the cache but not onto the disk
        raise OSError(errno.ENOSPC, "No space left on device")

    last = tmp_path / "last.pt"
    save_checkpoint(last, content(1))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device; the previous one is kept"):
        save_checkpoint(last, content(2))
    assert os.listdir(tmp_path) == ["last.pt"] and read_checkpoint(last)["epoch"] == 1


def test_an_interrupted_write_keeps_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    last = tmp_path / "last.pt"
    save_checkpoint(last, content(1))
    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(last, content(2))
    assert os.listdir(tmp_path) == ["last.pt"] and read_checkpoint(last)["epoch"] == 1


def test_an_object_that_cannot_be_saved_is_a_bug_and_no_user_error(tmp_path: Path) -> None:
    with pytest.raises(Exception) as error:  # pickle's, which differs by version
        save_checkpoint(tmp_path / "last.pt", {"model": lambda: None})
    assert not isinstance(error.value, UserError)
    assert os.listdir(tmp_path) == []


def test_each_process_resumes_at_its_own_rows_of_the_batch() -> None:
    cpu = torch.device("cpu")

    def method(first_row: int):
        return build_method("sprout", MethodSetting(4, (0.0,) * 3, (1.0,) * 3, first_row=first_row))

    first = method(0)
    images, labels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    for _ in range(3):
        first.mixer(images, labels)
    torch.manual_seed(1)
    state = rng_state(first, cpu)
    own = torch.rand(1)
    for rank in (0, 1):
        again = method(16 * rank)
        torch.manual_seed(2)
        restore_rng_state(state, again, World(rank, 2, cpu))
        assert again.mixer.rng.current().tolist() == [0, 3, 16 * rank]
        assert again.loss.rng.current().tolist() == [0, 0, 16 * rank]
        assert torch.equal(torch.rand(1), own) == (rank == 0)


# Each call of these changes what is on disk, or says that it is there.
DISK_CALLS = ("replace", "link", "unlink", "fsync")


class Killed(BaseException):
    """The process ends: no call reaches the disk from here on."""


class KilledAt:
    """Ends the process before its ``number``-th change of the disk, from 1, or not at all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int | None) -> None:
        self.number, self.count = number, 0
        for name in DISK_CALLS:
            monkeypatch.setattr(os, name, self._watched(getattr(os, name)))

    def _watched(self, call):
        def watched(*arguments, **options):
            self.count += 1
            if self.number is not None and self.count >= self.number:
                raise Killed
            return call(*arguments, **options)

        return watched


def improving_trainer(folder: Path, epochs: int) -> Trainer:
    """Return a trainer whose every epoch is the best, and which resumes from ``last.pt``."""
    trainer = make_trainer(folder, epochs=epochs, batches=1, keep_every=2)

    def validate(_: torch.nn.Module) -> MeasuredAccuracy:
        accuracy = Accuracy(trainer.position.epoch + 1, 6)
        return MeasuredAccuracy(accuracy, accuracy, 1.0)

    trainer._validate = validate
    if (last := folder / "last.pt").exists():
        trainer.restore(read_run_checkpoint(last), last)
    return trainer


def test_best_and_best_top1_agree_after_a_kill_between_any_two_changes_of_the_disk(
    tmp_path: Path,
) -> None:
    def run(folder: Path, number: int | None) -> int:
        with pytest.MonkeyPatch.context() as patch:
            disk = KilledAt(patch, number)
            with contextlib.suppress(Killed):
                improving_trainer(folder, 2).fit()
            return disk.count

    def ends(folder: Path) -> dict[str, tuple[int, float, int]]:
        contents = {path.name: read_run_checkpoint(path) for path in folder.glob("*.pt")}
        keys = ("step", "best_top1", "best_epoch")
        return {name: tuple(found[key] for key in keys) for name, found in contents.items()}

    first, whole = tmp_path / "first", tmp_path / "whole"
    first.mkdir()
    improving_trainer(first, 1).fit()
    shutil.copytree(first, whole)
    changes, wanted = run(whole, None), ends(whole)
    assert changes > 15
    assert wanted == {name: (2, 2 / 6, 2) for name in ("last.pt", "best.pt", "epoch-002.pt")} | {
        "last.previous.pt": (1, 1 / 6, 1)
    }
    for number in range(1, changes + 1):
        folder = tmp_path / str(number)
        shutil.copytree(first, folder)
        run(folder, number)
        for path in folder.glob("*.pt"):
            read_run_checkpoint(path)
        run(folder, None)
        assert ends(folder) == wanted, number
        assert not list(folder.glob(".*")), number


def test_best_is_that_of_the_run_after_going_back_to_an_earlier_checkpoint(tmp_path: Path) -> None:
    improving_trainer(tmp_path, 4).fit()
    second, last = tmp_path / "epoch-002.pt", tmp_path / "last.pt"
    trainer = make_trainer(tmp_path, epochs=4, batches=1)
    trainer.restore(read_run_checkpoint(second), second)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "_epoch", lambda log, stop_at: Outcome.INTERRUPTED)
        trainer.fit()
    assert read_run_checkpoint(tmp_path / "best.pt")["epoch"] == trainer.position.best_epoch == 2
    # last.pt is not the checkpoint that the run came from, so it does not become the previous one.
    trainer._save()
    assert read_run_checkpoint(last)["step"] == 2
    assert read_run_checkpoint(tmp_path / "last.previous.pt")["step"] == 3


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint within an epoch, of a run with averages and a loss scaler."""
    folder = tmp_path_factory.mktemp("saved")
    make_trainer(folder, **VARIED).fit(max_steps=6)
    return folder / "last.pt"


VARIED = {"ema": 0.9, "amp": "fp16"}


def flattened(value, where=()):
    """Yield the path and the value of each entry of a nested dict."""
    for key, item in value.items():
        yield (*where, key), item
        if isinstance(item, dict):
            yield from flattened(item, (*where, key))


def changed(content: dict, path: tuple, value) -> dict:
    """Return a copy of ``content`` with another value at ``path``; None removes it."""
    content = copy.deepcopy(content)
    place = content
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return content


FREE = ("config", "param_groups")  # checked elsewhere, or not used


def test_every_entry_of_a_checkpoint_is_checked_before_use(saved: Path, tmp_path: Path) -> None:
    content = read_run_checkpoint(saved)
    path, count, kinds = tmp_path / "last.pt", 0, set()
    trainer = make_trainer(**VARIED)
    before = copy.deepcopy(trainer._content())

    def refused(broken: dict, place: tuple) -> None:
        save_checkpoint(path, {key: broken[key] for key in broken if key != "format"})
        with pytest.raises(UserError) as error:
            trainer.restore(read_run_checkpoint(path), path)
        message = str(error.value)
        assert message.startswith(str(path)) and "\n" not in message, place
        assert "format" in place or str(place[-1]) in message or ": optimizer" in message

    for place, value in flattened(content):
        if any(name in place for name in FREE) or place[0] == "format":
            continue
        if place[:2] != ("rng_state", "cuda"):
            refused(changed(content, place, None), place)
            refused(changed(content, (*place[:-1], "foreign"), 1), (*place[:-1], "foreign"))
        wrong: list[object] = ["text"]
        if isinstance(value, torch.Tensor):
            kinds.add(place[0])
            wrong += [value.to(torch.int16), value.new_zeros((*value.shape, 2))]
            wrong += [value.new_zeros(1)] if value.shape != (1,) else []
            wrong += [value.to_sparse()] if value.dim() else []
            if value.is_floating_point():
                wrong += [torch.full_like(value, float("nan")), torch.full_like(value, -math.inf)]
        elif isinstance(value, float):
            wrong += [math.nan]
        for other in wrong:
            refused(changed(content, place, other), place)
            count += 1
    assert kinds == {"model", "ema", "beta", "optimizer", "rng_state"} and count > 100
    for step in (-1, 3, 9):  # of epoch 1 of 4 steps
        refused(changed(content, ("step",), step), ("step",))
    assert_same(trainer._content(), before)
    trainer.restore(content)


def test_a_checkpoint_is_copied_into_the_memory_of_the_last_one() -> None:
    memory: dict[str, torch.Tensor] = {}
    first = _copied({"model": {"weight": torch.ones(2, 3)}, "step": 1}, memory)
    kept = first["model"]["weight"]
    second = _copied({"model": {"weight": torch.zeros(2, 3)}, "step": 2}, memory)
    assert second["model"]["weight"] is kept and second["step"] == 2 and not kept.any()
    for other in (torch.ones(3, 2).t(), torch.ones(2, 3, dtype=torch.int64), torch.ones(6)):
        copy = _copied({"model": {"weight": other}}, memory)["model"]["weight"]
        assert torch.equal(copy, other) and copy.stride() == other.stride()
        assert copy is not kept and copy is not other and copy.dtype == other.dtype


@pytest.mark.parametrize("bad_step", [0, 1, 7])
def test_nothing_is_written_in_the_background_after_a_loss_that_is_not_finite(
    tmp_path: Path, bad_step: int
) -> None:
    writer = CheckpointWriter(tmp_path)
    content = {"model": {}, "ema": None, "beta": None, "optimizer": {}, "step": 8}
    writer.save_in_background(content, torch.tensor(bad_step))
    with pytest.raises(FatalError, match=f"loss is not finite at step {bad_step}$"):
        writer.wait()
    assert not (tmp_path / "last.pt").exists()
    writer.save_in_background(content, torch.tensor(-1))
    saved = writer.wait()
    assert saved is not None and saved.step == 8 and (tmp_path / "last.pt").exists()


def test_a_momentum_of_another_memory_format_is_copied_value_by_value(tmp_path: Path) -> None:
    """The fused kernel reads it as one block of the weight's layout."""
    make_trainer(tmp_path).fit(max_steps=4)
    content = read_run_checkpoint(tmp_path / "last.pt")
    momentum = content["optimizer"]["state"][0]["momentum_buffer"]
    strided = momentum.contiguous(memory_format=torch.contiguous_format)
    expanded = momentum[:1].expand_as(momentum)
    for other in (strided, expanded):
        content["optimizer"]["state"][0]["momentum_buffer"] = other
        trainer = make_trainer()
        trainer.restore(content)
        weight = trainer.model[0].weight
        own = trainer.optimize.optimizer.state[weight]["momentum_buffer"]
        assert torch.equal(own, other) and own.stride() == weight.stride()


def test_a_flipped_bit_is_found(saved: Path, tmp_path: Path) -> None:
    """Any of them; ``BIT_FLIPS=300 pytest -k flipped`` tries more."""
    whole, random = saved.read_bytes(), np.random.default_rng(0)
    for position in random.integers(8 * len(whole), size=int(os.environ.get("BIT_FLIPS", 40))):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << (position % 8)
        (tmp_path / "last.pt").write_bytes(damaged)
        with pytest.raises(UserError, match="last.pt: "):
            read_run_checkpoint(tmp_path / "last.pt")
    assert read_run_checkpoint(saved)["step"] == 6


def test_the_checkpoint_before_a_damaged_one_is_offered(tmp_path: Path) -> None:
    last, previous = tmp_path / "last.pt", tmp_path / "last.previous.pt"
    make_trainer(tmp_path, epochs=2).fit()
    assert read_run_checkpoint(previous)["step"] == 4
    damaged = bytearray(last.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    last.write_bytes(damaged)
    for read in (lambda: read_run_checkpoint(last), lambda: read_checkpoint(last)):
        with pytest.raises(UserError, match="damaged"):
            read()
    with pytest.raises(UserError, match=f"the checkpoint before it is {previous}$"):
        read_run_checkpoint(last)
    path, content, problems = newest_checkpoint(tmp_path)
    assert (path, content["step"]) == (previous, 4) and "last.pt: is damaged" in problems[0]
    # The damaged one does not replace it.
    trainer = make_trainer(tmp_path, epochs=2)
    trainer.restore(content, path)
    trainer.fit(max_steps=1)
    assert read_run_checkpoint(last)["step"] == 5 and read_run_checkpoint(previous)["step"] == 4
    for path in tmp_path.glob("*.pt"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="no checkpoint is good"):
        newest_checkpoint(tmp_path)
    assert newest_checkpoint(tmp_path / "elsewhere") == (None, None, [])


def test_other_programs_read_a_checkpoint(saved: Path) -> None:
    with zipfile.ZipFile(saved) as file:
        assert file.testzip() is None and file.comment.startswith(b"sha256:")
    for options in ({}, {"mmap": True}):
        assert torch.load(saved, weights_only=True, **options)["step"] == 6
