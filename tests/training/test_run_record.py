"""What a run's folder says about how it was started, and what W&B gets."""

from __future__ import annotations

import functools
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command import run
from helpers.image_files import plain_image, write_folder

import sprout_fast
from sprout_fast.training.command import train_cifar
from sprout_fast.training.environment import git_commit

pytest.importorskip("torchvision")


SMALL = shlex.split("--arch cifar_resnet8 --batch-size 8 --epochs 2 --final-attack-images 0")


def write_images(folder: Path) -> None:
    counts = {split: {"a": 8, "b": 8} for split in ("train", "test")}
    write_folder(folder, counts, functools.partial(plain_image, size=(32, 32)))


def train(root: Path, *options: str) -> int:
    data = root / "data"
    if not data.exists():
        write_images(data)
    return train_cifar(["--data", str(data), "--device", "cpu", *SMALL, *options])


def starts(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "environment.json").read_text())


def test_each_start_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SOME_TOKEN", "secret")
    monkeypatch.chdir(tmp_path)
    assert train(tmp_path, "--out", str(out), "--max-steps", "3") == 0
    assert train(tmp_path, "--out", str(out), "--resume", "auto") == 0
    first, second = starts(out)
    assert (first["step"], first["resumed_from"]) == (0, None)
    assert (second["step"], second["resumed_from"]) == (3, str(out / "last.pt"))
    assert first["command"] == shlex.join(sys.orig_argv)
    assert first["working_directory"] == str(tmp_path)
    assert first["git"]["working_directory"] is None
    versions = first["versions"]
    assert versions.get("cuda") == torch.version.cuda
    assert (versions["torch"], versions["sprout_fast"]) == (
        torch.__version__,
        sprout_fast.__version__,
    )
    assert first["build"] == sprout_fast.build_info()
    assert first["processes"] == 1 and first["devices"] == [f"CPU, {os.cpu_count()} cores"]
    assert first["variables"]["SLURM_JOB_ID"] == "17"
    assert "secret" not in (out / "environment.json").read_text()

    (out / "environment.json").write_text("[{")
    assert train(tmp_path, "--out", str(out), "--resume", "auto", "--epochs", "3") == 0
    assert [start["step"] for start in starts(out)] == [4]

    # Another run in that folder has a record of its own.
    assert train(tmp_path, "--out", str(out), "--max-steps", "1") == 0
    assert len(starts(out)) == len(starts(out / "previous")) == 1
    assert starts(out)[0]["step"] == 0


def test_the_commit_is_that_of_tracked_files(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    installed = repository / ".venv" / "package"
    installed.mkdir(parents=True)
    assert git_commit(repository) is None

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
        return run("git", "-C", repository, *identity, *arguments).strip()

    git("init", "-q")
    assert git_commit(repository) is None  # nothing is tracked yet
    (repository / "network.py").write_text("width = 1\n")
    (installed / "__init__.py").write_text("")
    git("add", "network.py")
    git("commit", "-qm", "First")
    commit = git("rev-parse", "HEAD")
    assert git_commit(repository) == {"commit": commit, "dirty": False}
    (repository / "network.py").write_text("width = 2\n")
    assert git_commit(repository) == {"commit": commit, "dirty": True}
    assert git_commit(installed, "__init__.py") is None


def test_the_command_is_that_of_torchrun() -> None:
    code = "from sprout_fast.training.environment import _command; print(_command())"
    parent = f"{shlex.join([sys.executable, '-c', code])}; true"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    shown = run("bash", "-c", parent, env=environment | {"TORCHELASTIC_RUN_ID": "none"})
    assert shlex.split(shown) == ["bash", "-c", parent]


@pytest.mark.parametrize("folder", [False, True])
def test_wandb_that_is_not_installed_is_one_line(
    folder: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["tool.py"])
    monkeypatch.setitem(sys.modules, "wandb", None)
    if folder:  # as W&B makes one for its files, which Python imports as a package
        (tmp_path / "wandb").mkdir()
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        del sys.modules["wandb"]
    assert train(tmp_path, "--out", str(tmp_path / "run"), "--tracker", "wandb") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tool.py: error: --tracker wandb: cannot be imported (")
    assert line.endswith("): pip install wandb")
    assert not (tmp_path / "run").exists()


def test_wandb_continues_the_run(tmp_path: Path) -> None:
    """W&B in a process of its own: it stays in one until that ends."""
    pytest.importorskip("wandb")
    out, tool = tmp_path / "run", tmp_path / "tool.py"
    tool.write_text("""
import os, signal, sys
from sprout_fast.training.command import train_cifar
from sprout_fast.training.loop import Trainer

step = Trainer._training_step

def signaled(self, *arguments):
    if self.position.step == 2 and "auto" not in sys.argv:
        os.kill(os.getpid(), signal.SIGUSR1)
    step(self, *arguments)

Trainer._training_step = signaled
sys.exit(train_cifar())
""")
    write_images(tmp_path / "data")
    command = [sys.executable, tool, "--data", tmp_path / "data", "--out", out, "--device", "cpu"]
    command += [*SMALL, "--tracker", "wandb"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "WANDB_SILENT": "true"}
    offline = environment | {"WANDB_MODE": "offline"}
    run(*command, status=75, env=offline)
    run(*command, "--resume", "auto", env=offline)
    identity = (out / "wandb" / "id").read_text()
    records = sorted((out / "wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb"))
    assert len(records) == 2
    assert b"epoch/val_top1" in records[1].read_bytes()

    # A key is asked for on a terminal only.
    online = environment | {
        "WANDB_API_KEY": "",
        "HOME": str(tmp_path),
        "NETRC": str(tmp_path / "n"),
    }
    done = subprocess.run(
        [*map(str, command), "--out", str(tmp_path / "other")],
        env=online,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("tool.py: error: --tracker wandb: ")
    assert done.stderr.endswith(": run wandb login first, or set WANDB_MODE=offline\n")
