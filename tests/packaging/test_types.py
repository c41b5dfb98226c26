"""The types that users see: pyright accepts a script, rejects its mistakes, and the script runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.paths import ROOT

from sprout_fast.models import CHECKPOINT_FORMAT, create_model

SCRIPT = Path(__file__).with_name("user_script.py")

MISTAKES = {
    "load_model(checkpoint)": "load_model(3)",
    "eps=8 / 255": "epsilon=8 / 255",
    "results.clean_accuracy": "results.accuracy",
    "SproutLoss(num_classes=10)": 'SproutLoss(num_classes="10")',
    "sprout_fast.dirichlet(": "sprout_fast.dirichlett(",
    "sigma=0.1)\n": 'sigma="0.1")\n',
}


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """pyright's errors by file: the script, and it with one mistake in each copy."""
    folder = tmp_path_factory.mktemp("types")
    source = SCRIPT.read_text()
    for i, (right, wrong) in enumerate({"": "", **MISTAKES}.items()):
        assert right in source
        (folder / f"{i}.py").write_text(source.replace(right, wrong) if right else source)
    config = {"pythonVersion": "3.10", "typeCheckingMode": "basic", "extraPaths": [str(ROOT)]}
    (folder / "pyrightconfig.json").write_text(json.dumps(config))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pyright", "--outputjson", "--project", folder),
            *("--pythonpath", sys.executable),
        ],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, list[str]] = {}
    for diagnostic in json.loads(done.stdout)["generalDiagnostics"]:
        found.setdefault(Path(diagnostic["file"]).name, []).append(diagnostic["message"])
    return found


def test_script_has_no_errors(errors):
    assert errors.get("0.py", []) == []


@pytest.mark.parametrize("number", range(1, len(MISTAKES) + 1))
def test_mistakes_are_errors(errors, number):
    assert len(errors[f"{number}.py"]) == 1


def test_script_runs(tmp_path):
    model = create_model("cifar_resnet8", 10)
    config = {
        "arch": "cifar_resnet8", "num_classes": 10, "classes": list("abcdefghij"),
        "mean": [0.5] * 3, "std": [0.25] * 3, "image_size": 32, "loader": "memory",
        "method": "sprout", "data": "none", "alpha": None,
    }  # fmt: skip
    (tmp_path / "run").mkdir()
    torch.save(
        {
            "format": CHECKPOINT_FORMAT, "model": model.state_dict(), "ema": None,
            "beta": torch.ones(10), "config": config,
        },
        tmp_path / "run" / "best.pt",
    )  # fmt: skip
    done = subprocess.run([sys.executable, SCRIPT], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    assert (tmp_path / "report" / "results.json").exists()
