"""What two processes of a job share: batch norm's statistics, and the options of DDP."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.command import run

from sprout_fast.distributed import held_port

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")

SHARED = """
import os, sys, warnings
import torch
from torch import nn
from sprout_fast.cli import run_tool
from sprout_fast.distributed import joined_world
from sprout_fast.errors import UserError
from sprout_fast.training.build import _build_model, _wrapped
from sprout_fast.training.config import CifarConfig
from sprout_fast.training.progress import Display

warnings.simplefilter("error", FutureWarning)

def statistics(world, how):
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.BatchNorm1d(3))
    for buffer in model.buffers():
        buffer += 4 * world.rank
    world.share_buffers(model, how)
    return [buffer.tolist() for buffer in model.buffers()]

def body():
    with joined_world("cpu", timeout=30) as world:
        first = [[0.0] * 2, [1.0] * 2, 0, [0.0] * 3, [1.0] * 3, 0]
        assert statistics(world, "broadcast") == first
        assert statistics(world, "reduce") == [[2.0] * 2, [3.0] * 2, 0, [2.0] * 3, [3.0] * 3, 0]

        for accumulation_steps in (1, 2):
            config = CifarConfig(arch="cifar_resnet8", image_size=32, channels_last=False)
            config.accumulation_steps = accumulation_steps
            model = _build_model(config, 4, world, Display(False))
            parallel, _ = _wrapped(model, config, world)
            assert parallel.gradient_as_bucket_view and not parallel.forward_sync_buffers
            assert parallel.static_graph == (accumulation_steps == 1)

        config.sync_bn = True
        try:
            _build_model(config, 4, world, Display(False))
        except UserError as error:
            assert str(error) == "sync_bn needs GPUs, got cpu", error
        else:
            raise AssertionError
    return 0

children = []
for rank in (0, 1):
    child = os.fork()
    if not child:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[1]}
        os._exit(run_tool("shared.py", body))
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def test_statistics_and_options_of_ddp() -> None:
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    with held_port() as port:
        run(sys.executable, "-c", SHARED, port, env=os.environ | environment, timeout=100)


KILLED = """
import os, signal, sys, time
import torch
from sprout_fast.cli import run_tool
from sprout_fast.distributed import joined_world
from sprout_fast.training.interrupt import Interrupt

def body():
    with Interrupt().installed(held=True), joined_world("cpu") as world:
        for step in range(10_000):
            if (world.rank, step) == (1, 30):
                print("killed at", time.time(), flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            world.sum(torch.ones(1))
            time.sleep(0.1)
    return 0

sys.exit(run_tool("tool.py", body))
"""


def test_torchrun_ends_soon_after_a_process_was_killed(tmp_path: Path) -> None:
    """Although the other one defers SIGTERM until a step is complete, which it never will be."""
    (tmp_path / "tool.py").write_text(KILLED)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    shown = run(
        *(*torchrun, "--nproc-per-node", "2", tmp_path / "tool.py"),
        status=1,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        timeout=100,
    )
    ended, (killed,) = time.time(), [s for s in shown.splitlines() if s.startswith("killed at")]
    assert ended - float(killed.split()[-1]) < 15, shown
    assert [line for line in shown.splitlines() if line.startswith("tool.py: error:")] in (
        [],  # torchrun's SIGTERM came before the process noticed
        [s for s in shown.splitlines() if "process 1 of 2 (pid" in s and s.startswith("tool.py")],
    )
