"""sprout-train-cifar as a user types it: every method, every recipe, and bad input."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.logged import assert_logged_is_measured, metrics
from PIL import Image

from sprout_fast.methods import METHODS
from sprout_fast.models import load_model, read_checkpoint
from sprout_fast.training.command import read_recipe, train_cifar
from sprout_fast.training.config import CifarConfig

SMALL = shlex.split("--arch cifar_resnet8 --batch-size 16 --epochs 2 --final-attack-images 0")


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the name that the program was started under, which opens its error messages."""
    monkeypatch.setattr(sys, "argv", ["/somewhere/train_cifar.py"])


def write_squares(root: Path, classes: list[str], train: int, test: int) -> Path:
    """Write 32-pixel images whose classes differ in the color of a square."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8)
                pixels[8:24, 8:24, label % 3] += 120
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with three classes: 48 training and 12 test images."""
    root = tmp_path_factory.mktemp("squares")
    return write_squares(root, ["apple", "pear", "plum"], train=16, test=4)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains(
    squares: Path, tmp_path: Path, method: str, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    argv = [*SMALL, "--data", str(squares), "--method", method, "--out", str(out)]
    short = {"pgd_at": ["--attack-steps", "2"], "trades": ["--attack-steps", "2"]}
    assert train_cifar([*argv, *short.get(method, []), "--limit-train", "33"]) == 0
    shown = capsys.readouterr().out
    assert "33 of 48 training and 12 validation images of 3 classes" in shown
    assert f"training cifar_resnet8 with {method}" in shown and "processes" not in shown
    rows = metrics(out)
    replays = 8 if method == "free_at" else 1
    assert [int(row["step"]) for row in rows] == [2 * replays, 4 * replays]
    assert all(0 < float(row["train_loss"]) < 20 for row in rows)
    assert (out / "beta.png").exists() == (method == "sprout")
    content = read_checkpoint(out / "last.pt")
    assert content["config"]["arch"] == "cifar_resnet8"
    with torch.no_grad():
        assert load_model(out / "last.pt")(torch.rand(2, 3, 32, 32)).isfinite().all()


@pytest.mark.parametrize("recipe", ["paper", "reference-code", "expected"])
def test_beta_is_projected_finite_and_moving_under_every_recipe(
    squares: Path, tmp_path: Path, recipe: str
) -> None:
    out = tmp_path / "run"
    argv = [*SMALL, "--data", str(squares), "--recipe", recipe, "--out", str(out)]
    assert train_cifar(argv) == 0
    config = yaml.safe_load((out / "config.yaml").read_text())
    for name, value in read_recipe(recipe).items():
        # All but the options of this command line.
        assert config[name] == {"batch_size": 16, "epochs": 2}.get(name, value), name
    content = read_checkpoint(out / "last.pt")
    beta = content["beta"]
    first = torch.rand(3, generator=torch.Generator().manual_seed(0)) * 10 / 3
    first = torch.ones(3) if recipe == "reference-code" else first
    assert beta.isfinite().all() and (beta >= 1e-3 / 3).all()
    assert ((beta - first).abs() > 1e-5).all()
    steps = 3 if recipe == "reference-code" else 1
    assert content["step"] == 6 * steps
    assert content["config"]["mean"] == ([0.0] * 3 if steps == 3 else [0.4914, 0.4822, 0.4465])
    rows = metrics(out)
    assert float(rows[-1]["beta_mean"]) == pytest.approx(beta.mean().item(), rel=1e-5)
    assert Image.open(out / "beta.png").size[0] > 500


def test_recipes_give_a_source_for_each_value() -> None:
    folder = Path(sys.modules["sprout_fast.training.command"].__file__).parent / "recipes"
    names = {path.stem for path in folder.glob("*.yaml")}
    natural = {"torchvision-v1", "torchvision-v2", "nvidia", "timm-a1", "timm-a2", "timm-a3"}
    assert names == {"paper", "reference-code", "expected"} | natural
    for path in folder.glob("*.yaml"):
        for line in path.read_text().splitlines():
            assert "#" in line or line.startswith(("method", "schedule")), line
        assert set(read_recipe(path.stem)) <= set(vars(CifarConfig()))


def test_the_command_line_overrides_the_recipe(squares: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    argv = ["--data", str(squares), "--recipe", "paper", "--sigma", "0.05", "--out", str(out)]
    assert train_cifar([*SMALL, *argv, "--max-steps", "1"]) == 0
    config = read_checkpoint(out / "last.pt")["config"]
    assert (config["sigma"], config["alpha"], config["recipe"]) == (0.05, 0.01, "paper")
    # A resumed run keeps its own values, not the recipe's.
    assert train_cifar(["--resume", str(out / "last.pt")]) == 0
    assert read_checkpoint(out / "last.pt")["config"]["sigma"] == 0.05


def test_a_recipe_in_a_yaml_file_is_applied(squares: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "run", tmp_path / "run.yaml"
    file.write_text("recipe: reference-code\nsigma: 0.05\n")
    argv = ["--data", str(squares), "--config", str(file), "--out", str(out), "--max-steps", "3"]
    assert train_cifar([*SMALL, *argv]) == 0
    config = read_checkpoint(out / "last.pt")["config"]
    assert (config["scale"], config["sigma"], config["weight_steps"]) == (11.0, 0.05, 3)
    assert train_cifar(["--resume", str(out / "last.pt"), "--modules", "ga"]) == 2
    assert train_cifar(["--resume", str(out / "last.pt"), "--recipe", "paper"]) == 2
    # Into another folder, where no epoch ends: there is nothing to plot.
    aside = ["--out", str(tmp_path / "aside"), "--max-steps", "3"]
    assert train_cifar(["--resume", str(out / "last.pt"), *aside]) == 0


def test_averaged_weights_are_evaluated_and_resumed(squares: Path, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole", tmp_path / "half"
    argv = [*SMALL, "--data", str(squares), "--ema", "0.9"]
    assert train_cifar([*argv, "--out", str(whole)]) == 0
    assert train_cifar([*argv, "--out", str(half), "--max-steps", "4"]) == 0
    assert train_cifar(["--resume", str(half / "last.pt")]) == 0
    one, two = (read_checkpoint(folder / "last.pt") for folder in (whole, half))
    for name, value in one["ema"].items():
        assert torch.equal(value, two["ema"][name]), name
    weight = next(name for name in one["ema"] if "conv" in name)
    assert not torch.equal(one["ema"][weight], one["model"][weight])
    assert torch.equal(load_model(whole / "last.pt").model.state_dict()[weight], one["ema"][weight])
    for folder in (whole, half):
        assert_logged_is_measured(folder, squares)


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--data", "nowhere"], ["nowhere", "no such"]),
        ([], ["--data needs a folder or tar"]),
        (["--data", "DATA", "--image-size", "64"], ["--image-size 64", "32 x 32 pixels"]),
        (["--data", "DATA", "--limit-train", "1"], ["--limit-train 1"]),
        (["--data", "DATA", "--arch", "resnet21"], ["resnet21"]),
        (["--data", "DATA", "--recipe", "papr"], ["did you mean paper?"]),
        (["--data", "DATA", "--modules", "ga,mixip"], ["modules: got mixip, expected any of ga"]),
        (["--data", "DATA", "--method", "ls", "--modules", "ga"], ["--modules", "ls"]),
        (["--data", "DATA", "--ema", "1.5"], ["--ema 1.5"]),
        (
            ["--data", "DATA", "--recipe", "paper", "--method", "trades"],
            ["--recipe paper: is a recipe for method sprout"],
        ),
        (
            ["--data", "DATA", "--method", "pgd_at", "--eps", "8"],
            ["eps: got 8.0, expected a number in [0, 1]"],
        ),
        (["--data", "DATA", "--beta-lr", "fast"], ["--beta-lr fast"]),
        (["--data", "DATA", "--batch-size", "500"], ["--batch-size 500", "48 images"]),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    squares: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    argv: list[str],
    parts: list[str],
) -> None:
    argv = [str(squares) if word == "DATA" else word for word in argv]
    out = tmp_path / "run"
    assert (
        train_cifar(["--arch", "cifar_resnet8", "--batch-size", "16", "--out", str(out), *argv])
        == 2
    )
    shown = capsys.readouterr().err
    assert shown.startswith("train_cifar.py: error: ") and shown.count("\n") == 1, shown
    for part in parts:
        assert part in shown
    assert not out.exists()


def test_a_method_option_out_of_range_is_reported_before_the_images_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = write_squares(tmp_path / "data", ["a", "b"], train=16, test=4)
    (data / "train" / "a" / "0.png").write_bytes(b"no image")
    argv = [*SMALL, "--data", str(data), "--out", str(tmp_path / "run")]
    assert train_cifar(argv) == 2
    assert "0.png" in capsys.readouterr().err
    assert train_cifar([*argv, "--sigma", "-1"]) == 2
    assert "sigma" in capsys.readouterr().err


def test_the_range_of_mass_floor_depends_on_the_number_of_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = write_squares(tmp_path / "data", list("abcdefghij"), train=2, test=1)
    argv = [*SMALL, "--data", str(data), "--out", str(tmp_path / "run"), "--max-steps", "1"]
    assert train_cifar([*argv, "--mass-floor", "0.3"]) == 0
    assert read_checkpoint(tmp_path / "run" / "last.pt")["config"]["mass_floor"] == 0.3
    capsys.readouterr()
    assert train_cifar([*argv, "--mass-floor", "0.05"]) == 2  # under 1/10
    assert "mass_floor" in capsys.readouterr().err


def test_an_arch_for_large_images_is_a_warning(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    argv = [*SMALL, "--data", str(squares), "--out", str(tmp_path / "run"), "--max-steps", "1"]
    assert train_cifar([*argv, "--arch", "resnet18"]) == 0
    shown = capsys.readouterr().out
    assert "warning: resnet18 is torchvision's, made for large images" in shown
    assert "for 32 pixels use cifar_resnet18" in shown


LOCKED = """
import sys
from pathlib import Path
from sprout_fast.files import folder_lock

with folder_lock(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_folder_in_use_is_refused(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", LOCKED, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"locked\n"
        argv = [*SMALL, "--data", str(squares), "--out", str(tmp_path), "--epochs", "1"]
        assert train_cifar(argv) == 2
        first.kill()
    shown = capsys.readouterr().err
    assert shown.startswith(
        f"train_cifar.py: error: --out {tmp_path}: in use by process {first.pid} on "
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock"]


TRADES = """
import sys
from pathlib import Path
import torch
from sprout_fast.training.config import CifarConfig
from sprout_fast.distributed import joined_world
from sprout_fast.training.progress import Display
from sprout_fast.training.build import build_trainer
from sprout_fast.training.run import resolve

data, out = map(Path, sys.argv[1:])
out.mkdir(exist_ok=True)
config = CifarConfig(
    arch="cifar_resnet8", data=data, out=out, method="trades", epochs=1, batch_size=8
)
with joined_world("cpu") as world:
    trainer = build_trainer(resolve(config, world), world, Display(enabled=False))
    trainer.fit()
    torch.save([p.detach() for p in trainer.model.parameters()], out / f"rank{world.rank}.pt")
"""


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_two_passes_and_an_attack_on_two_processes(squares: Path, tmp_path: Path) -> None:
    """TRADES has two forward passes per backward pass, and attacks outside of DDP."""
    out, tool = tmp_path / "run", tmp_path / "tool.py"
    tool.write_text(TRADES)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", tool, squares, out],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in metrics(out)] == ["3"]
    first, second = (torch.load(out / f"rank{rank}.pt") for rank in range(2))
    for mine, theirs in zip(first, second, strict=True):
        assert torch.equal(mine, theirs)
