"""Two processes train like one on the whole batch, and only the first one writes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.tiny_run import (
    BATCH,
    CLASSES,
    MEAN,
    STD,
    FakeLoader,
    assert_same,
    method_setting,
)
from torch import nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel

from sprout_fast.data import Loaders
from sprout_fast.distributed import World, joined_world, pick_device
from sprout_fast.errors import UserError
from sprout_fast.methods import build_method
from sprout_fast.models import Normalized, read_checkpoint
from sprout_fast.training.loop import Outcome, Trainer
from sprout_fast.training.optim import build_optimizer, build_scheduler
from sprout_fast.training.progress import Display
from sprout_fast.training.step import OptimizeStep


def train(world: World, out: Path) -> Trainer:
    """Train two epochs of SPROUT, without Mixup, whose partners are within a process's batch."""
    torch.manual_seed(3)
    # No batch norm, whose statistics are those of a process's batch.
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)
    )
    share = BATCH // world.size
    rows = slice(world.rank * share, (world.rank + 1) * share)
    method = build_method(
        "sprout",
        method_setting(first_row=rows.start, accumulation_steps=2),
        mixup_alpha=0.0,
        beta_lr=5.0,
    )
    optimizer = build_optimizer("sgd", model, lr=0.2, momentum=0.9, weight_decay=0.01)
    wrapped = DistributedDataParallel(model) if world.size > 1 else model

    trainer = Trainer(
        model=model,
        evaluated=Normalized(model, MEAN, STD),
        method=method,
        optimize=OptimizeStep(
            wrapped,
            Normalized(model, MEAN, STD),
            optimizer,
            build_scheduler(optimizer, warmup_steps=1, total_steps=4),
            GradScaler("cpu", enabled=False),
            accumulation_steps=2,
        ),
        loaders=Loaders(
            FakeLoader(rows=rows),
            FakeLoader(1, seed=9, train=False, rows=rows),
            list("abcde"),
            "fake",
        ),
        epochs=2,
        world=world,
        out=out if world.is_main else None,
        record={},
        display=Display(enabled=False),
    )
    assert trainer.fit() is Outcome.FINISHED
    return trainer


def worker(rank: int, port: int, out: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with joined_world("cpu") as world:
        assert (world.rank, world.size) == (rank, 2)
        trainer = train(world, out)
        torch.save([p.detach() for p in trainer.model.parameters()], out / f"rank{rank}.pt")


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_two_processes_equal_one_process_with_the_whole_batch(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    alone = train(World(0, 1, torch.device("cpu")), one)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(worker, (port, two), nprocs=2)
    whole, shared = (read_checkpoint(folder / "last.pt") for folder in (one, two))
    torch.testing.assert_close(shared["beta"], whole["beta"], rtol=1e-4, atol=1e-5)
    for name, value in whole["model"].items():  # without DDP's prefix "module."
        torch.testing.assert_close(shared["model"][name], value, rtol=1e-4, atol=1e-5)
    assert shared["best_top1"] == whole["best_top1"] == alone.position.best_top1
    assert_same(*(torch.load(two / f"rank{rank}.pt") for rank in (0, 1)))
    assert len(list(two.glob("events.*"))) == 1  # the second process wrote none
    rows = [(folder / "metrics.csv").read_text().splitlines() for folder in (one, two)]
    assert len(rows[0]) == len(rows[1]) == 3
    for mine, theirs in zip(rows[0][1:], rows[1][1:], strict=True):
        losses = [float(row.split(",")[2]) for row in (mine, theirs)]  # over both processes
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


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
