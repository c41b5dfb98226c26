"""sprout-train-imagenet as a user types it: runs, resumed runs, and each kind of bad input."""

from __future__ import annotations

import contextlib
import csv
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers.logged import assert_logged_is_measured
from helpers.paths import TOOLS
from PIL import Image

from sprout_fast.methods.sprout import Sprout
from sprout_fast.models import create_model, load_model, read_checkpoint
from sprout_fast.training.command import train_imagenet

TOOL = TOOLS / "train_imagenet.py"
SMALL = shlex.split(
    "--arch resnet18 --image-size 32 --batch-size 4 --epochs 2 --lr 0.01 --workers 1"
)


@pytest.fixture(autouse=True, scope="module")
def program() -> Iterator[None]:
    """The name that the program was started under, which opens its error messages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["/somewhere/train_imagenet.py"])
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of single-color pictures: 12 for training, 6 for validation."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(("apple", "pear", "plum")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 60, (40, 48, 3), dtype=np.uint8)
                pixels[..., label] += 150
                Image.fromarray(pixels).save(folder / f"{number}.JPEG")
    return root


@pytest.fixture(scope="module")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run that has finished."""
    out = tmp_path_factory.mktemp("runs") / "run"
    argv = [*SMALL, "--data", str(photos), "--out", str(out), "--final-attack-images", "4"]
    assert train_imagenet(argv) == 0
    return out


def test_a_run_writes_its_files(finished: Path, photos: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {"config.yaml", "metrics.csv", "last.pt", "best.pt"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert [name for name in names if name.startswith(".")] == [".lock"]
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["data"] == str(photos) and config["method"] == "sprout"
    assert config["amp"] == "none" and config["warmup_epochs"] == 0.2  # resolved, not null
    with open(finished / "metrics.csv") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["3", "6"]
    record = read_checkpoint(finished / "last.pt")["config"]
    assert record["classes"] == ["apple", "pear", "plum"] and record["num_classes"] == 3


def test_a_checkpoint_loads_as_a_model_for_images_in_0_1(finished: Path) -> None:
    model = load_model(finished / "best.pt")
    with torch.no_grad():
        assert model(torch.rand(2, 3, 32, 32)).shape == (2, 3)


def test_max_steps_then_resume_equals_a_run_in_one_go(
    finished: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    data = ["--data", str(photos), "--out", str(out), "--final-attack-images", "0"]
    assert train_imagenet([*SMALL, *data, "--max-steps", "4"]) == 0
    shown = capsys.readouterr().out
    assert f"stopped at step 4, as max_steps says; resume from {out / 'last.pt'}" in shown
    # The folder is moved in between; the options, with the path of the data, are in the checkpoint.
    moved = tmp_path / "moved"
    out.rename(moved)
    assert train_imagenet(["--resume", str(moved / "last.pt")]) == 0
    assert "after epoch 1, step 4" in capsys.readouterr().out
    assert not out.exists()
    whole, resumed = (read_checkpoint(folder / "last.pt") for folder in (finished, moved))
    assert resumed["epoch"] == 2
    for key, value in whole["model"].items():
        assert torch.equal(value, resumed["model"][key]), key
    assert torch.equal(whole["beta"], resumed["beta"])


def test_resuming_a_finished_run_does_nothing(
    finished: Path, capsys: pytest.CaptureFixture
) -> None:
    before = (finished / "last.pt").stat().st_mtime_ns
    assert train_imagenet(["--resume", str(finished / "last.pt")]) == 0
    assert "already trained for 2 epochs" in capsys.readouterr().out
    assert (finished / "last.pt").stat().st_mtime_ns == before


def test_the_final_accuracy_states_its_number_of_images(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    argv = [*SMALL, "--method", "natural", "--data", str(photos), "--out", str(tmp_path / "run")]
    assert train_imagenet([*argv, "--max-steps", "1", "--final-attack-images", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    clean, attacked, rest = lines[-4:-1]
    assert "clean accuracy" in clean and "of 5; 95 % interval" in clean
    assert "PGD-10 accuracy" in attacked and "8/255" in attacked and "of 5;" in attacked
    assert "on 5 of the 6 validation images;" in rest
    assert not any("\x1b" in line for line in lines)  # no terminal, no colors


def test_weights_with_another_number_of_classes_need_reset_head(
    finished: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    two = tmp_path / "two"
    shutil.copytree(photos, two, ignore=shutil.ignore_patterns("plum"))
    argv = [*SMALL, "--data", str(two), "--out", str(tmp_path / "run"), "--max-steps", "1"]
    argv += ["--weights", str(finished / "best.pt"), "--final-attack-images", "0"]
    assert train_imagenet(argv) == 2
    assert "--reset-head" in error_line(capsys)
    assert train_imagenet([*argv, "--reset-head"]) == 0
    assert "new classifier" in capsys.readouterr().out
    assert read_checkpoint(tmp_path / "run" / "last.pt")["model"]["fc.weight"].shape[0] == 2


def test_a_previous_run_in_the_folder_is_moved_aside(
    finished: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    argv = [*SMALL, "--data", str(photos), "--out", str(out), "--max-steps", "1"]
    assert train_imagenet([*argv, "--final-attack-images", "0"]) == 0
    assert f"moved the previous run in {out} to {out / 'previous'}" in capsys.readouterr().out
    assert read_checkpoint(out / "previous" / "last.pt")["step"] == 6
    assert read_checkpoint(out / "last.pt")["step"] == 1
    assert not (out / "best.pt").exists()


def test_compile_uses_torch_compile(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, modes = [], []
    whole = torch.compile

    def quick(model: torch.nn.Module, mode: str) -> torch.nn.Module:  # without inductor's compiler
        compiled.append(model)
        modes.append(mode)
        return whole(model, backend="eager")

    monkeypatch.setattr(torch, "compile", quick)
    argv = [
        *SMALL,
        "--arch",
        "squeezenet1_1",
        "--data",
        str(photos),
        "--out",
        str(tmp_path / "run"),
    ]
    argv += ["--compile", "max-autotune", "--max-steps", "1", "--final-attack-images", "0"]
    assert train_imagenet(argv) == 0
    assert len(compiled) == 1 and modes == ["max-autotune"]
    names = read_checkpoint(tmp_path / "run" / "last.pt")["model"].keys()
    assert names == compiled[0].state_dict().keys()  # without torch.compile's prefix


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_cuda_graph_needs_a_gpu(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("cuda_graph: true\n")
    argv = [*SMALL, "--data", str(photos), "--out", str(tmp_path / "run"), "--config", str(file)]
    assert train_imagenet(argv) == 2
    assert error_line(capsys).endswith("error: --cuda-graph needs a GPU, got device cpu\n")
    assert train_imagenet([*argv, "--accumulation-steps", "2"]) == 2
    assert "--cuda-graph got accumulation_steps 2, expected 1" in error_line(capsys)
    assert not (tmp_path / "run").exists()


def test_divergence_is_one_line_and_status_1(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    argv = [*SMALL, "--data", str(photos), "--out", str(tmp_path / "run"), "--lr", "1e30"]
    assert train_imagenet(argv) == 1
    assert "not finite at step" in error_line(capsys)
    assert not (tmp_path / "run" / "last.pt").exists()


def test_optimizer_and_accumulation_steps_are_checked(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    argv = [*SMALL, "--data", str(photos), "--out", str(tmp_path / "run")]
    assert train_imagenet([*argv, "--optimizer", "apex-fused-sgd"]) == 2
    assert "NVIDIA" in error_line(capsys)
    assert train_imagenet([*argv, "--accumulation-steps", "4"]) == 2
    assert "more than the 3 batches" in error_line(capsys)
    assert not (tmp_path / "run").exists()


def error_line(capsys: pytest.CaptureFixture) -> str:
    """Return stderr, which must be one line of the program."""
    shown = capsys.readouterr().err
    assert shown.startswith("train_imagenet.py: error: ") and shown.count("\n") == 1, shown
    return shown


def without_train_class(photos: Path, root: Path) -> list[str]:
    shutil.copytree(photos, root / "data")
    shutil.rmtree(root / "data" / "train" / "plum")
    return ["--data", str(root / "data")]


def broken_image(photos: Path, root: Path) -> list[str]:
    shutil.copytree(photos, root / "data")
    (root / "data" / "train" / "pear" / "2.JPEG").write_bytes(b"not a picture")
    return ["--data", str(root / "data")]


def empty_folder(photos: Path, root: Path) -> list[str]:
    (root / "data").mkdir()
    return ["--data", str(root / "data")]


def weights_of_another_arch(photos: Path, root: Path) -> list[str]:
    torch.save(create_model("squeezenet1_1", 3).state_dict(), root / "other.pth")
    return ["--data", str(photos), "--weights", str(root / "other.pth")]


def no_weights_file(photos: Path, root: Path) -> list[str]:
    (root / "notes.txt").write_text("words")
    return ["--data", str(photos), "--weights", str(root / "notes.txt")]


def out_under_a_file(photos: Path, root: Path) -> list[str]:
    (root / "notes.txt").write_text("words")
    return ["--data", str(photos), "--out", str(root / "notes.txt" / "run")]


def option(*argv: str) -> Callable[[Path, Path], list[str]]:
    return lambda photos, root: ["--data", str(photos), *argv]


@pytest.mark.parametrize(
    ("arrange", "parts"),
    [
        (lambda photos, root: ["--data", str(root / "nowhere")], ["nowhere", "no such folder"]),
        (empty_folder, ["data"]),
        (without_train_class, ["plum", "val"]),
        (broken_image, ["2.JPEG"]),
        (option("--batch-size", "13"), ["--batch-size 13", "12 images"]),
        (option("--arch", "resnet151"), ["resnet151", "did you mean resnet152"]),
        (option("--method", "sprot"), ["sprot", "did you mean sprout?"]),
        (option("--method", "natural", "--sigma", "0.2"), ["--sigma", "natural"]),
        (option("--alpha", "2"), ["alpha", "2"]),
        (option("--sigma", "-1"), ["sigma", "-1"]),
        (option("--device", "cuda:9"), ["--device cuda:9"]),
        (option("--device", "tpu"), ["--device tpu"]),
        (option("--arch", "inception_v3"), ["--image-size 32", "inception_v3"]),
        (option("--loader", "dally"), ["did you mean dali?"]),
        (option("--batchsize", "3"), ["did you mean --batch-size?"]),
        (weights_of_another_arch, ["other.pth", "does not fit", "conv1.weight"]),
        (no_weights_file, ["notes.txt"]),
        (out_under_a_file, ["notes.txt"]),
        (option("--resume", "nowhere.pt"), ["nowhere.pt: no such file"]),
        (option("--save-every", "soon"), ["--save-every soon: expected steps or a time, e.g. 500"]),
        (option("--save-every", "0m"), ["--save-every 0m"]),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    arrange: Callable[[Path, Path], list[str]],
    parts: list[str],
) -> None:
    out = tmp_path / "run"
    assert train_imagenet([*SMALL, "--out", str(out), *arrange(photos, tmp_path)]) == 2
    line = error_line(capsys)
    for part in parts:
        assert part in line
    # Nothing is written, but for the steps before an image that cannot be decoded.
    assert bool(list(tmp_path.rglob("last.pt"))) == ("is saved in" in line)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_checkpoint_that_cannot_be_resumed(
    finished: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    last = str(finished / "last.pt")
    notes = tmp_path / "notes.txt"
    notes.write_text("words")
    natural = tmp_path / "natural.pth"
    torch.save(create_model("resnet18", 3).state_dict(), natural)
    truncated = tmp_path / "truncated.pt"
    truncated.write_bytes((finished / "last.pt").read_bytes()[:5000])
    other = tmp_path / "other"
    shutil.copytree(photos, other)
    for split in ("train", "val"):
        (other / split / "plum").rename(other / split / "quince")
    for argv, part in [
        (["--resume", str(notes)], "notes.txt"),
        (["--resume", str(natural)], "natural.pth"),
        (["--resume", str(truncated)], "truncated.pt"),
        (["--resume", last, "--arch", "resnet50"], "with arch resnet18, got arch resnet50"),
        (["--resume", last, "--method", "natural"], "with method sprout, got method natural"),
        (["--resume", last, "--epochs", "3", "--data", str(other)], "its classes differ"),
        (["--resume", last, "--weights", str(natural)], "--weights"),
    ]:
        assert train_imagenet(argv) == 2, argv
        assert part in error_line(capsys), argv


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="needs a folder that is not writable")
def test_an_output_folder_that_cannot_be_created(
    photos: Path, capsys: pytest.CaptureFixture
) -> None:
    assert train_imagenet([*SMALL, "--data", str(photos), "--out", "/sys/sprout_fast_run"]) == 2
    assert "--out /sys/sprout_fast_run: cannot be written" in error_line(capsys)


def run_tool(*argv: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_a_full_disk_ends_the_run_and_keeps_the_previous_checkpoint(
    finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    done = run_tool(
        *("--resume", str(out / "last.pt"), "--epochs", "3", "--final-attack-images", "0"),
        # At most 1 MiB per file: metrics fit, a checkpoint fails in the middle of the write.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20)),
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "last.pt: cannot be written" in done.stderr and "previous one is kept" in done.stderr
    assert read_checkpoint(out / "last.pt")["epoch"] == 2
    assert [path.name for path in out.glob(".*")] == [".lock"]


def test_ctrl_c_saves_and_the_run_can_be_resumed(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    argv = [*SMALL, "--data", str(photos), "--out", str(out), "--epochs", "10000"]
    process = subprocess.Popen(
        [sys.executable, str(TOOL), *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    try:
        for line in process.stdout:
            if "step 1/3" in line:
                break
        process.send_signal(signal.SIGINT)
        shown, errors = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert process.returncode == 130, errors
    assert errors == ""
    assert f"resume from {out / 'last.pt'}" in shown.splitlines()[-1]
    content = read_checkpoint(out / "last.pt")
    assert content["step"] >= 1
    done = run_tool("--resume", str(out / "last.pt"), "--max-steps", "2")
    assert done.returncode == 0, done.stderr
    assert read_checkpoint(out / "last.pt")["step"] == content["step"] + 2


def test_a_preempted_job_repeats_its_command_line(
    finished: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    out = tmp_path / "run"
    last, previous = out / "last.pt", out / "last.previous.pt"
    argv = [*SMALL, "--data", str(photos), "--out", str(out), "--final-attack-images", "0"]
    # From the weights of another run, which a repeated command line names again.
    argv += ["--resume", "auto", "--weights", str(finished / "best.pt"), "--recipe", "paper"]
    step = Sprout.training_step

    def preempted(self: Sprout, optimize: Any, images: torch.Tensor, labels: torch.Tensor) -> None:
        step(self, optimize, images, labels)
        if optimize.steps == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Sprout, "training_step", preempted)
        assert train_imagenet(argv) == 75
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1] == f"interrupted after step 2; resume from {last}"
    assert train_imagenet([*argv, "--max-steps", "2"]) == 0
    assert f"resuming from {last} after epoch 0, step 2" in capsys.readouterr().out
    damaged = bytearray(last.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    last.write_bytes(damaged)
    assert train_imagenet(["--resume", str(last)]) == 2
    line = error_line(capsys)
    assert f"{last}: is damaged: its content does not match its checksum" in line
    assert f"the checkpoint before it is {previous}" in line
    assert train_imagenet(argv) == 0
    shown = capsys.readouterr().out
    assert f"warning: {last}: is damaged" in shown and f"resuming from {previous} after" in shown
    assert not (out / "previous").exists()
    assert train_imagenet(argv) == 0
    assert "already trained for 2 epochs" in capsys.readouterr().out
    assert read_checkpoint(last)["step"] == 6
    for path in out.glob("*.pt"):
        path.write_bytes(b"")
    assert train_imagenet(argv) == 2
    assert f"--resume {out}: no checkpoint is good" in error_line(capsys)
    assert train_imagenet([*SMALL, "--data", str(photos), "--resume", "auto"]) == 2
    assert "--resume auto: needs out" in error_line(capsys)


def test_another_batch_size_continues_with_the_rest_of_the_epoch(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    last = str(out / "last.pt")
    argv = [*SMALL, "--data", str(photos), "--out", str(out), "--final-attack-images", "0"]
    assert train_imagenet([*argv, "--max-steps", "2"]) == 0
    assert train_imagenet(["--resume", last, "--batch-size", "2", "--max-steps", "2"]) == 0
    shown = capsys.readouterr().out
    assert "epoch 1: continues after 8 of its 12 images" in shown and "epoch 1/2 in" in shown
    assert read_checkpoint(last)["step"] == 6  # two batches of two: the end of epoch 1
    assert train_imagenet(["--resume", last, "--batch-size", "4"]) == 0
    assert "epoch 2/2 in" in capsys.readouterr().out
    assert read_checkpoint(last)["step"] == 6  # of two epochs of three


def test_sprout_learns_the_sample_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = [
        "--arch",
        "cifar_resnet8",
        "--image-size",
        "32",
        "--batch-size",
        "20",
        "--epochs",
        "3",
        "--lr",
        "0.05",
        "--ema",
        "0.9",
    ]
    assert train_imagenet([*argv, "--final-attack-images", "0"]) == 0
    shown = capsys.readouterr().out
    assert "no data given: training on a generated sample set" in shown
    with open(tmp_path / "runs" / "cifar_resnet8-sprout" / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["train_loss"]) for row in rows]
    assert losses[-1] < losses[0] and losses[-1] < 2.2  # chance: log 10 = 2.30
    assert float(rows[-1]["val_top1"]) > 0.2  # chance is 0.1
    data = tmp_path / "runs" / "sample_set"
    assert (data / "train").is_dir()
    assert_logged_is_measured(tmp_path / "runs" / "cifar_resnet8-sprout", data)
