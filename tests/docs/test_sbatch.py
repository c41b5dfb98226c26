"""The batch script of docs/scale.md on two "nodes", with real torchruns and training processes.

Slurm's three commands are stand-ins: ``srun`` starts the command twice, ``scancel`` signals both.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.image_files import write_folder
from helpers.paths import ROOT

from sprout_fast.models import read_checkpoint

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_gloo_available() or shutil.which("bash") is None,
    reason="needs gloo and bash",
)

COMMANDS = {
    "torchrun": f'exec "{sys.executable}" -m torch.distributed.run "$@"',
    # The status is the highest of the tasks', as srun's is.
    "srun": '"$@" & one=$!; "$@" & two=$!; echo "$one $two" > "$SHARED/tasks"\n'
    "wait $one; first=$?; wait $two; second=$?; exit $((first > second ? first : second))",
    "scancel": '[[ $* == "--signal=USR1 $SLURM_JOB_ID" ]] && kill -USR1 $(cat "$SHARED/tasks")',
    "scontrol": 'case "$1" in show) echo localhost; echo localhost;;\n'
    'requeue) echo "$2" >> "$SHARED/requeued";; esac',
}


def wait_for(path: Path, job: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 150
    while not path.exists():
        assert job.poll() is None and time.monotonic() < until
        time.sleep(0.2)


def test_the_batch_script_restarts_requeues_and_resumes(tmp_path: Path) -> None:
    commands, out, log = tmp_path / "bin", tmp_path / "run", tmp_path / "log"
    commands.mkdir()
    for name, text in COMMANDS.items():
        (commands / name).write_text(f"#!/bin/bash\n{text}\n")
        (commands / name).chmod(0o755)
    write_folder(tmp_path / "data", {split: {"a": 8, "b": 8} for split in ("train", "val")})
    number = os.getpid() % 10000  # the script's port is 20000 + the job's number
    environment = os.environ | {
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "OMP_NUM_THREADS": "1",
        "SHARED": str(tmp_path),
        "SLURM_JOB_ID": str(number),
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_JOB_NODELIST": "node[1-2]",
    }

    def submitted(epochs: str) -> subprocess.Popen[bytes]:
        options = ["--arch", "cifar_resnet8", "--data", tmp_path / "data", "--out", out]
        options += ["--device", "cpu", "--loader", "torch", "--batch-size", "4"]
        options += ["--image-size", "32", "--final-attack-images", "0", "--epochs", epochs]
        script = ["bash", ROOT / "docs/examples/train.sbatch", *map(str, options)]
        with open(log, "ab") as file:
            return subprocess.Popen(script, env=environment, cwd=ROOT, stdout=file, stderr=file)

    job = submitted("100000")
    try:
        # A process that is killed: torchrun starts all again, which resume.
        wait_for(out / "last.previous.pt", job)
        task = (tmp_path / "tasks").read_text().split()[0]
        (worker,) = Path(f"/proc/{task}/task/{task}/children").read_text().split()
        os.kill(int(worker), signal.SIGKILL)
        until = time.monotonic() + 150
        while len(json.loads((out / "environment.json").read_text())) < 2:
            assert job.poll() is None and time.monotonic() < until
            time.sleep(0.2)
        time.sleep(1)

        # The time is nearly up.
        job.send_signal(signal.SIGUSR1)
        assert job.wait(100) == 1, log.read_text()
        shown = log.read_text()
        assert (tmp_path / "requeued").read_text() == f"{number}\n", shown
        stopped = read_checkpoint(out / "last.pt")
        assert f"interrupted after step {stopped['step']}; resume from {out / 'last.pt'}" in shown

        # Slurm runs the same script again, here with what remains of the run.
        job = submitted(str(stopped["epoch"] + 1))
        assert job.wait(150) == 0, log.read_text()
        assert read_checkpoint(out / "last.pt")["epoch"] == stopped["epoch"] + 1
        assert (tmp_path / "requeued").read_text() == f"{number}\n"  # not again
        third = json.loads((out / "environment.json").read_text())[2]
        assert third["step"] == stopped["step"] and "--max-restarts 3" in third["command"]
    finally:
        job.kill()
        for task in (tmp_path / "tasks").read_text().split():
            if Path(f"/proc/{task}").exists():
                os.kill(int(task), signal.SIGTERM)
