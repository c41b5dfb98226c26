"""Checkpoints are complete or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sprout_fast.distributed import World
from sprout_fast.errors import UserError
from sprout_fast.methods import MethodSetting, build_method
from sprout_fast.models import read_checkpoint
from sprout_fast.training.checkpoint import (
    link_checkpoint,
    restore_rng_state,
    rng_state,
    save_checkpoint,
)


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
        assert again.mixer.rng.state.tolist() == [0, 3, 16 * rank]
        assert again.loss.rng.state.tolist() == [0, 0, 16 * rank]
        assert torch.equal(torch.rand(1), own) == (rank == 0)
