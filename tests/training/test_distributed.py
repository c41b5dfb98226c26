"""Two processes train like one on the whole batch, and only the first one writes."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny_run import (
    CLASSES,
    MEAN,
    STD,
    FakeLoader,
    assert_same,
    make_trainer,
    tiny_network,
)
from torch import nn

from sprout_fast.distributed import LateMaximum, World, held_port, joined_world, pick_device
from sprout_fast.errors import UserError
from sprout_fast.models import Normalized, read_checkpoint
from sprout_fast.training.loop import Outcome, Trainer


def train(world: World, out: Path) -> Trainer:
    """Train two epochs of SPROUT, without Mixup, whose partners are within a process's batch."""
    torch.manual_seed(3)
    # No batch norm, whose statistics are those of a process's batch.
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)
    )
    options = {"accumulation_steps": 2, "mixup_alpha": 0.0, "beta_lr": 5.0}
    trainer = make_trainer(out, model=model, world=world, **options)
    assert trainer.fit() is Outcome.FINISHED
    return trainer


def normalized_by_each(world: World, out: Path) -> None:
    """Train an epoch with batch norm per way of sharing it, and save the statistics at the end."""
    for how in ("none", "broadcast", "reduce"):
        if world.is_main:
            (out / how).mkdir()
        world.barrier()
        trainer = make_trainer(out / how, epochs=1, batches=5, dist_bn=how, world=world)
        assert trainer.fit() is Outcome.FINISHED
        torch.save(trainer.model[1].state_dict(), out / how / f"rank{world.rank}.pt")


def worker(rank: int, port: int, out: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with joined_world("cpu") as world:
        assert (world.rank, world.size) == (rank, 2)
        trainer = train(world, out)
        torch.save([p.detach() for p in trainer.model.parameters()], out / f"rank{rank}.pt")
        normalized_by_each(world, out)
        torch.save(maxima(world), out / f"maxima{rank}.pt")


def maxima(world: World) -> list[int]:
    """Return what the processes learn of each other's numbers, at once and one call later."""
    numbers, (first, second) = LateMaximum(world), (int(world.rank == rank) for rank in (0, 1))
    found = [numbers.late(5 * second), numbers.now(0), numbers.now(7 * first)]
    return [*found, numbers.now(0), numbers.late(2 * first + second), numbers.now(1)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the runs of two processes."""
    if not torch.distributed.is_gloo_available():
        pytest.skip("needs gloo")
    out = tmp_path_factory.mktemp("two")
    with held_port() as port:
        torch.multiprocessing.spawn(worker, (port, out), nprocs=2)
    return out


def test_two_processes_equal_one_process_with_the_whole_batch(two: Path, tmp_path: Path) -> None:
    """The noise of a process's images too is that of their places in the whole batch."""
    alone = train(World(0, 1, torch.device("cpu")), tmp_path)
    whole, shared = (read_checkpoint(folder / "last.pt") for folder in (tmp_path, two))
    torch.testing.assert_close(shared["beta"], whole["beta"], rtol=1e-4, atol=1e-5)
    for name, value in whole["model"].items():  # without DDP's prefix "module."
        torch.testing.assert_close(shared["model"][name], value, rtol=1e-4, atol=1e-5)
    assert shared["best_top1"] == whole["best_top1"] == alone.position.best_top1
    assert_same(*(torch.load(two / f"rank{rank}.pt") for rank in (0, 1)))
    assert len(list(two.glob("events.*"))) == 1  # the second process wrote none
    mine, theirs = (logged(folder) for folder in (tmp_path, two))
    assert len(mine) == len(theirs) == 2
    for one, other in zip(mine, theirs, strict=True):  # over both processes
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)


def test_processes_learn_the_largest_of_their_numbers(two: Path) -> None:
    for rank in (0, 1):
        assert torch.load(two / f"maxima{rank}.pt") == [0, 5, 7, 0, 0, 2]


def logged(folder: Path) -> list[dict[str, float]]:
    with open(folder / "metrics.csv") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def test_statistics_of_batch_norm_are_shared_before_validation(two: Path) -> None:
    """Training does not depend on them, so three runs differ in nothing else."""
    ends = {
        how: [torch.load(two / how / f"rank{rank}.pt") for rank in (0, 1)]
        for how in ("none", "broadcast", "reduce")
    }
    for name in ("running_mean", "running_var"):
        first, second = (end[name] for end in ends["none"])
        assert (first - second).abs().max() > 1e-3
        for shared, expected in (("broadcast", first), ("reduce", (first + second) / 2)):
            for end in ends[shared]:
                torch.testing.assert_close(end[name], expected)
    for how in ("broadcast", "reduce"):
        model = tiny_network().eval()
        model.load_state_dict(read_checkpoint(two / how / "last.pt")["model"])
        images, labels = FakeLoader(1, seed=9, train=False).batch(0, 0)
        with torch.no_grad():
            logits = Normalized(model, MEAN, STD)(images / 255)
        (row,) = logged(two / how)
        # The statistics of the checkpoint, for both processes' images.
        assert row["val_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
        correct = (logits.argmax(1) == labels).float().mean().item()
        assert row["val_top1"] == pytest.approx(correct, abs=1e-6)


FAILS = """
import sys
from sprout_fast.errors import UserError
from sprout_fast.cli import run_tool

def body():
    raise UserError("photos: no such folder", option="data")

sys.exit(run_tool("tool.py", body))
"""


def test_a_mistake_is_reported_once_under_torchrun(tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text(FAILS)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", tmp_path / "tool.py"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("tool.py: error:")]
    assert lines == ["tool.py: error: --data photos: no such folder"]
    # torchrun reports one process or both: it stops the other once one has failed.
    assert "exitcode  : 2" in done.stderr


def test_a_single_process_without_torchrun() -> None:
    with joined_world("cpu") as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
        assert world.sum(torch.ones(2)).tolist() == [1, 1]


def test_devices() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "cuda:99", "meta", "cpu:x"):
        with pytest.raises(UserError, match=f"device {name}: "):
            pick_device(name)
