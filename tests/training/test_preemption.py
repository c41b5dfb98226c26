"""Runs that are stopped by signals, failing data or a kill, and go on from what they saved."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import signal
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.image_files import write_folder
from helpers.tiny_run import BATCH, FakeLoader, assert_same, make_trainer

from sprout_fast.data import build_loaders
from sprout_fast.distributed import World, held_port, joined_world
from sprout_fast.errors import UserError
from sprout_fast.training import checkpoint
from sprout_fast.training.checkpoint import read_run_checkpoint
from sprout_fast.training.loop import Outcome, Trainer


def interrupted_at(trainer: Trainer, signals: dict[int, int]) -> None:
    """Send this process a signal during steps, by their numbers from 0."""
    step = trainer.method.training_step

    def signaled(*arguments: Any) -> None:
        if trainer.position.step in signals:
            os.kill(os.getpid(), signals[trainer.position.step])
        step(*arguments)

    trainer.method.training_step = signaled


def resumed(folder: Path, **options: Any) -> Trainer:
    trainer, last = make_trainer(folder, **options), folder / "last.pt"
    trainer.restore(read_run_checkpoint(last), last)
    return trainer


@pytest.fixture(scope="module")
def whole() -> Trainer:
    """A run of two epochs of four steps that nothing stopped."""
    trainer = make_trainer()
    trainer.fit()
    return trainer


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
@pytest.mark.parametrize("step", [0, 3, 5])
def test_a_signal_saves_the_next_step(name: str, step: int, whole: Trainer, tmp_path: Path) -> None:
    number = getattr(signal, name)
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    trainer = make_trainer(tmp_path)
    interrupted_at(trainer, {step: number})
    assert trainer.fit() is Outcome.INTERRUPTED
    assert trainer.interrupt.status == (130 if name == "SIGINT" else 75)
    after = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    assert after == handlers
    trainer = resumed(tmp_path)
    assert trainer.position.step == step + 1
    assert trainer.fit() is Outcome.FINISHED
    assert_same(trainer._content(), whole._content())


def test_outside_of_training_a_signal_stops_at_once_with_its_status() -> None:
    with make_trainer().interrupt.installed(), pytest.raises(KeyboardInterrupt) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.value.args == (75,)


def test_a_run_whose_launcher_died_saves_and_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    trainer = make_trainer(tmp_path)
    assert trainer.fit(max_steps=1) is Outcome.MAX_STEPS
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert trainer.fit() is Outcome.INTERRUPTED
    assert trainer.interrupt.status == 75
    assert read_run_checkpoint(tmp_path / "last.pt")["step"] == 2


@pytest.mark.parametrize("save_every", ["1", "2", "3", "1s"])
def test_a_killed_run_resumes_from_a_checkpoint_within_an_epoch(
    save_every: str, whole: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Killed(BaseException):
        pass

    trainer = make_trainer(tmp_path, save_every=save_every)
    step = trainer.method.training_step

    def slow_or_killed(*arguments: Any) -> None:
        if trainer.position.step == 7:
            raise Killed
        step(*arguments)
        if trainer._writer.busy:  # a step takes longer than the write
            trainer._report_saved(trainer._writer.wait())
        if save_every == "1s" and trainer.position.step == 5:
            trainer._saving_since = 0, -1e9

    trainer.method.training_step = slow_or_killed
    with pytest.raises(Killed):
        trainer.fit()
    trainer._writer.wait()
    shown = capsys.readouterr().out
    steps = {"1": [1, 2, 3, 5, 6, 7], "2": [2, 6], "3": [3, 7], "1s": [6]}[save_every]
    # What was saved at a step is that step's state, whatever training did to the tensors since.
    for number in steps:
        assert f"saved step {number}: training paused for " in shown or number == steps[-1]
    trainer = resumed(tmp_path, save_every=save_every)
    assert trainer.position.step == steps[-1]
    assert trainer.fit() is Outcome.FINISHED
    assert_same(trainer._content(), whole._content())


def test_a_checkpoint_in_the_background_is_that_of_its_step(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    make_trainer(one, ema=0.9).fit(max_steps=3)
    trainer = make_trainer(two, ema=0.9, save_every="3")
    write, held = trainer._writer._write, []
    trainer._writer._write = lambda content, *rest: held.append(content) or write(content, *rest)
    trainer.fit(max_steps=4)
    # The copies, kept until the next ones, were not touched by the fourth step.
    copied, saved = held[0], read_run_checkpoint(one / "last.pt")
    assert_same(dict(copied), {key: saved[key] for key in copied})


def test_a_failing_write_in_the_background_ends_the_run_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tmp_path, save_every="1")

    def full(content: Any, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_torch_file", full)
    with pytest.raises(UserError, match="last.pt: cannot be written: No space left on device"):
        trainer.fit()
    assert trainer.position.step < 4 or not (tmp_path / "last.pt").exists()


class Failing(FakeLoader):
    """Fails to decode an image of the third batch of the second epoch."""

    def batch(self, epoch: int, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if (epoch, index) == (1, 2):
            raise UserError("photo.jpg: is damaged", option="data")
        return super().batch(epoch, index)


@pytest.mark.parametrize("rank", [0, 1])
def test_data_that_fails_within_an_epoch_saves_the_steps_before(
    rank: int, whole: Trainer, tmp_path: Path
) -> None:
    trainer = make_trainer(tmp_path)
    if rank:  # of two processes, this one writes no other checkpoint
        trainer._writer, trainer._rescuer._tag = None, ".rank1"
    object.__setattr__(trainer.loaders, "train", Failing())
    with pytest.raises(UserError) as error:
        trainer.fit()
    last = tmp_path / "last.pt"
    assert str(error.value) == f"data photo.jpg: is damaged; step 6 is saved in {last}"
    trainer = resumed(tmp_path)  # the image is repaired
    assert trainer.position.step == 6 and not list(tmp_path.glob(".*"))
    trainer.fit()
    assert_same(trainer.model.state_dict(), whole.model.state_dict())


def test_data_that_fails_between_accumulated_batches_saves_nothing(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, accumulation_steps=3, batches=6)
    object.__setattr__(trainer.loaders, "train", Failing(6))
    with pytest.raises(UserError, match="photo.jpg: is damaged$"):
        trainer.fit()
    assert read_run_checkpoint(tmp_path / "last.pt")["step"] == 2  # the end of the first epoch


class Signaling(FakeLoader):
    """Validation during whose batch ``at`` this process gets SIGUSR1."""

    at = -1

    def batch(self, epoch: int, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if index == self.at:
            os.kill(os.getpid(), signal.SIGUSR1)
        return super().batch(epoch, index)


# By name: the signals to each of two ranks, by step, and the validation batch with one to rank 1.
CASES: dict[str, tuple[dict[int, int], dict[int, int], int]] = {
    "nothing": ({}, {}, -1),
    "one rank": ({}, {2: signal.SIGTERM}, -1),
    "the other": ({4: signal.SIGUSR1}, {}, -1),
    "at different steps": ({3: signal.SIGINT}, {1: signal.SIGTERM}, -1),
    "the last step": ({}, {3: signal.SIGTERM}, -1),
    "validation": ({}, {}, 1),
}


def two_ranks(rank: int, port: int, out: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)

    def trainer_in(folder: Path, world: World) -> Trainer:
        trainer = make_trainer(folder, world=world)
        trainer.model[5].p = 0.0  # of torch's generators, only the first rank's is saved
        if (last := folder / "last.pt").exists():
            trainer.restore(read_run_checkpoint(last), last)
        return trainer

    with joined_world("cpu") as world:
        for name, (*signals, batch) in CASES.items():
            folder = out / name
            if world.is_main:
                folder.mkdir()
            world.barrier()
            trainer = trainer_in(folder, world)
            interrupted_at(trainer, signals[rank])
            validation = Signaling(4, seed=9, train=False)
            validation.num_images, validation.at = 2 * 4 * BATCH, batch if rank else -1
            object.__setattr__(trainer.loaders, "val", validation)
            outcome = trainer.fit()
            (out / f"{name} {rank}").write_text(
                f"{outcome.name} {trainer.position.step} {trainer.interrupt.status}"
            )
            world.barrier()
            trainer = trainer_in(folder, world)
            object.__setattr__(trainer.loaders, "val", validation)
            validation.at = -1
            if outcome is Outcome.INTERRUPTED:
                assert trainer.fit() is Outcome.FINISHED
            world.barrier()


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_all_ranks_stop_at_the_same_step_whoever_got_the_signal(tmp_path: Path) -> None:
    with held_port() as port:
        torch.multiprocessing.spawn(two_ranks, (port, tmp_path), nprocs=2)
    ends = {name: [(tmp_path / f"{name} {rank}").read_text() for rank in (0, 1)] for name in CASES}
    assert all(one == two for one, two in ends.values())
    assert {name: one for name, (one, _) in ends.items()} == {
        "nothing": "FINISHED 8 130",
        "one rank": "INTERRUPTED 4 75",  # one step after the one with the signal
        "the other": "INTERRUPTED 6 75",
        "at different steps": "INTERRUPTED 3 75",
        "the last step": "INTERRUPTED 4 75",
        "validation": "INTERRUPTED 4 75",
    }
    whole = read_run_checkpoint(tmp_path / "nothing" / "last.pt")
    for name in CASES:
        assert_same(read_run_checkpoint(tmp_path / name / "last.pt"), whole)


@pytest.mark.skipif(find_spec("torchvision") is None, reason="needs torchvision")
def test_workers_of_the_torch_loader_outlive_a_signal_to_all_processes(tmp_path: Path) -> None:
    """torchrun signals whole groups of processes, schedulers all processes of a job."""
    write_folder(tmp_path, {split: {"a": 4, "b": 4} for split in ("train", "val")})
    train = build_loaders(tmp_path, loader="torch", batch_size=2, image_size=8, workers=1).train
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        batches = iter(train)
        next(batches)
        workers = multiprocessing.active_children()
        for worker in workers:
            os.kill(worker.pid, number)
        assert workers and len(list(batches)) == 3
    start = time.monotonic()
    del train, batches
    gc.collect()
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    assert time.monotonic() - start < 30  # they end with their loader, not by the alarm
