"""tools/evaluate_robustness.py, i.e. sprout-evaluate, as users call it."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from evaluate_robustness import main
from helpers.image_files import noise_image, write_folder
from helpers.paths import TOOLS

from sprout_fast.evaluation.recorder import Recorder
from sprout_fast.models import CHECKPOINT_FORMAT, create_model

TOOL = TOOLS / "evaluate_robustness.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """An image folder with 3 classes of 32x32 images."""
    counts = {"train": {"a": 2, "b": 2, "c": 2}, "val": {"a": 4, "b": 4, "c": 4}}
    return write_folder(
        tmp_path_factory.mktemp("images"), counts, lambda number: noise_image(number, (32, 32))
    )


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory):
    """A checkpoint like those of train_cifar.py, of a SPROUT model with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "best.pt"
    torch.save(
        {
            "format": CHECKPOINT_FORMAT,
            "model": create_model("cifar_resnet8", 3).state_dict(),
            "ema": None,
            "beta": torch.tensor([1.0, 2.0, 3.0]),
            "config": {
                "arch": "cifar_resnet8",
                "num_classes": 3,
                "classes": ["a", "b", "c"],
                "mean": [0.5] * 3,
                "std": [0.25] * 3,
                "image_size": 32,
                "loader": "memory",
                "method": "sprout",
                "data": str(data),
                "alpha": None,
            },
        },
        path,
    )
    return path


def test_a_checkpoint_is_the_only_required_option(checkpoint, capsys):
    assert main(["--checkpoint", str(checkpoint), "--protocol", "all", "--scale", "0.01"]) == 0
    printed = capsys.readouterr().out
    assert "12 validation images of 3 classes" in printed
    assert "cifar_resnet8 trained by sprout" in printed
    assert (
        "transfer at 0.03" in printed
        and "not measured: transfer attacks need a surrogate model" in printed
    )
    out = checkpoint.parent / "evaluation"
    results = json.loads((out / "results.json").read_text())
    assert results["verdict"]["images"] == results["verdict"]["images_available"] == 12
    assert results["parameters"]["training"]["method"] == "sprout"
    mass = [c for c in results["audit"]["checks"] if c["name"] == "labels keep the true class"]
    assert mass[0]["numbers"]["largest beta"] == 3
    assert (out / "report.html").read_text().count("<h1") == 1
    assert any((out / "figures").glob("*.png"))


def test_a_cifar_network_trained_on_files_of_several_sizes(checkpoint, tmp_path):
    """It is evaluated through a loader that resizes, as it was trained."""
    counts = {"train": {"a": 1, "b": 1, "c": 1}, "val": {"a": 1, "b": 1, "c": 1}}
    photos = write_folder(
        tmp_path / "photos", counts, lambda number: noise_image(number, (40 + number, 35))
    )
    content = torch.load(checkpoint, weights_only=True)
    content["config"]["loader"] = "torch"
    torch.save(content, tmp_path / "last.pt")
    arguments = ["--checkpoint", str(tmp_path / "last.pt"), "--data", str(photos)]
    assert main([*arguments, "--scale", "0.01", "--out", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("loader", ["dali", "torch"])
def test_a_torchvision_weights_file(data, tmp_path, capsys, loader):
    weights = tmp_path / "resnet18.pth"
    torch.save(create_model("resnet18", 3).state_dict(), weights)
    arguments = ["--checkpoint", str(weights), "--arch", "resnet18", "--data", str(data)]
    arguments += ["--image-size", "32", "--limit", "6", "--scale", "0.01", "--loader", loader]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "6 of 12 validation images" in printed and "resnet18.pth: loaded" in printed
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(results["per_image"]["label"]) == 6
    assert results["verdict"]["images_available"] == 12


def test_the_default_eps_is_smaller_for_larger_images(data, tmp_path, capsys):
    weights = tmp_path / "resnet18.pth"
    torch.save(create_model("resnet18", 3).state_dict(), weights)
    arguments = ["--checkpoint", str(weights), "--arch", "resnet18", "--data", str(data)]
    arguments += ["--image-size", "72", "--limit", "1", "--scale", "0.001", "--loader", "torch"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert f"linf eps {4 / 255:.4g}" in capsys.readouterr().out


def test_an_interrupted_run_resumes(checkpoint, tmp_path, monkeypatch, capsys):
    arguments = ["--checkpoint", str(checkpoint), "--out", str(tmp_path)]
    arguments += ["--protocol", "audit", "--batch-size", "2", "--scale", "0.01"]
    measure, measured = Recorder._measure_batch, []

    def counted(recorder, measurement, *rows):
        measured.append(measurement.name)
        if interrupt and measured.count("gradients") == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return measure(recorder, measurement, *rows)

    monkeypatch.setattr(Recorder, "_measure_batch", counted)
    monkeypatch.setattr(sys, "argv", ["evaluate_robustness.py"])
    interrupt = True
    # A program in the background of a script ignores Ctrl-C.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(arguments) == 130
    finally:
        signal.signal(signal.SIGINT, handler)
    out, error = capsys.readouterr()
    assert "rerun the command to resume" in out
    assert error == "evaluate_robustness.py: interrupted\n"
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("parts/*.pt")}
    assert not (tmp_path / "report.html").exists()
    assert measured[-2:] == ["gradients", "gradients"] and "clean" in measured

    interrupt, complete = False, set(measured) - {"gradients"}
    measured.clear()
    assert main(arguments) == 0
    assert (tmp_path / "report.html").exists()
    # Complete results are read; those of the interrupted measurement are added to.
    assert measured[0] == "gradients" and not complete & set(measured)
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("parts/*.pt")}
    (changed,) = (name for name, written in before.items() if after[name] != written)
    assert changed.startswith("gradients-")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "nowhere.pt"], "nowhere.pt"),
        (["--checkpoint", "{weights}"], "--arch required, e.g. resnet50, since"),
        (
            ["--checkpoint", "{weights}", "--arch", "resnet18"],
            "--data required: a folder or tar of images",
        ),
        (["--checkpoint", "{checkpoint}", "--arch", "resnet18"], "is a cifar_resnet8"),
        (["--checkpoint", "{checkpoint}", "--protocol", "al"], "did you mean all"),
        (["--checkpoint", "{checkpoint}", "--eps", "8"], "--eps 8.0: images are in [0,1]"),
        (
            ["--checkpoint", "{checkpoint}", "--limit", "0"],
            "--limit 0: expected an integer of at least 1",
        ),
        (
            ["--checkpoint", "{checkpoint}", "--scale", "2"],
            "--scale 2.0: expected a number in (0,1]",
        ),
        (["--checkpoint", "{checkpoint}", "--surrogate", "{weights}"], "checkpoint"),
        (
            ["--checkpoint", "{checkpoint}", "--data", "{other}"],
            "3 outputs, and by name none",
        ),
        (["--checkpoint", "{checkpoint}", "--protocl", "all"], "did you mean --protocol"),
        (["--chekpoint", "x.pt"], "unknown option --chekpoint; did you mean --checkpoint?"),
        ([], "--checkpoint required: a checkpoint, or a file with weights"),
    ],
)
def test_mistakes_are_reported_in_one_line(checkpoint, tmp_path, capsys, arguments, message):
    weights = tmp_path / "weights.pth"
    torch.save(create_model("resnet18", 3).state_dict(), weights)
    counts = {"train": {"x": 2, "y": 2}, "val": {"x": 1, "y": 1}}
    other = write_folder(tmp_path / "o", counts, lambda number: noise_image(number, (32, 32)))
    names = {"weights": weights, "checkpoint": checkpoint, "other": other}
    arguments = [argument.format(**names) for argument in arguments]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_an_output_folder_that_is_a_file_is_reported_in_one_line(checkpoint, tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert main(["--checkpoint", str(checkpoint), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_unknown_protocol_is_reported_before_images_are_read(checkpoint, capsys):
    assert main(["--checkpoint", str(checkpoint), "--protocol", "al", "--data", "nowhere"]) == 2
    assert "did you mean all" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["--protocol", "al"], ["--chekpoint", "x.pt"]])
def test_help_and_mistakes_are_answered_without_torch(arguments):
    code = (
        "import sys\n"
        "from sprout_fast.evaluation.command import main\n"
        "try:\n"
        f"    status = main({arguments!r})\n"
        "except SystemExit as stop:\n"
        "    status = stop.code or 0\n"
        "assert 'torch' not in sys.modules\n"
        "sys.exit(status)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == (0 if arguments == ["--help"] else 2), done.stderr
    if arguments == ["--help"]:
        for group in ("model", "data", "evaluation", "output"):
            assert re.search(rf"^╭─ {group} ", done.stdout, re.MULTILINE), done.stdout
