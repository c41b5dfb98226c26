"""The programs in unusual environments: ASCII terminals, no home folder, ``python -O``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.image_files import noise_image, write_folder
from helpers.paths import ROOT, TOOLS

from sprout_fast.training.command import train_cifar

# Also what most containers and cron jobs have.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key not in ("HOME", "USER")}
ENVIRONMENT |= {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
ENVIRONMENT |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
# Python then decodes file names as ASCII too, which it avoids unless told otherwise.
ASCII_NAMES = {"PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set whose names are not ASCII, in a folder whose name is not."""
    classes = {"häßlich": 4, "b→c": 4}
    root = tmp_path / "köter"
    return write_folder(
        root, {"train": classes, "val": classes}, lambda n: noise_image(n, (32, 32))
    )


def run(program: str, *arguments: object, optimize: str = "-O", **variables: str) -> str:
    command = [sys.executable, optimize, TOOLS / program, *arguments]
    done = subprocess.run(
        list(map(str, command)), env=ENVIRONMENT | variables, capture_output=True, timeout=300
    )
    printed = done.stdout.decode("ascii") + done.stderr.decode("ascii")
    assert done.returncode == 0 and "Traceback" not in printed, printed
    return printed


def test_programs_without_a_home_or_a_locale_and_optimized(data, tmp_path):
    """All at once, because each costs seconds."""
    out = tmp_path / "läuft"
    small = ["--arch", "cifar_resnet8", "--batch-size", 4, "--epochs", 1]
    small += ["--final-attack-images", 2]
    printed = run("train_cifar.py", "--data", data, *small, "--out", out)
    assert "k\\xf6ter" in printed
    printed = run("evaluate_robustness.py", "--checkpoint", out / "last.pt", "--scale", "0.001")
    assert "l\\xe4uft" in printed
    assert (out / "evaluation" / "report.html").exists()
    assert "b\\u2192c" in run("verify_data.py", data, **ASCII_NAMES)


@pytest.mark.parametrize("program", sorted(path.name for path in TOOLS.glob("*.py")))
def test_help_without_docstrings(program):
    assert "usage: " in run(program, "--help", optimize="-OO")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8", "utf-16"])
def test_options_from_an_editor_on_windows(data, tmp_path, encoding, capsys):
    """A byte order mark and CRLF."""
    lines = f"data: {data}\r\narch: cifar_resnet8\r\nepochs: 1\r\nbatch-size: 4\r\nseed: -1\r\n"
    (tmp_path / "config.yaml").write_bytes(lines.encode(encoding))
    assert train_cifar(["--config", str(tmp_path / "config.yaml")]) == 2
    assert "--seed -1: expected a number of at least 0" in capsys.readouterr().err


def test_a_reader_that_ends_early_is_no_error():
    """As in ``--help | head``: the next line has no reader."""
    command = [sys.executable, TOOLS / "train_cifar.py", "--help"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        list(map(str, command)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        printed = process.stderr.read().decode()
    assert printed == "" and process.returncode == 141
