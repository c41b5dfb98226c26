"""Threat models, preprocessing and several processes from the command line of sprout-evaluate."""

import inspect
import json
import os
import re
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from evaluate_robustness import main
from helpers.image_files import noise_image, write_folder
from helpers.paths import TOOLS

from sprout_fast.evaluation import config
from sprout_fast.evaluation.from_checkpoint import DEFAULT_EPS
from sprout_fast.models import create_model


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Return the options of a network with random weights and 12 images of 3 classes."""
    root = tmp_path_factory.mktemp("evaluated")
    counts = {"train": dict.fromkeys("abc", 1), "val": dict.fromkeys("abc", 4)}
    data = write_folder(root / "images", counts, lambda number: noise_image(number, (40, 40)))
    torch.manual_seed(0)
    torch.save(create_model("cifar_resnet8", 3).state_dict(), root / "weights.pth")
    options = ["--checkpoint", root / "weights.pth", "--arch", "cifar_resnet8", "--data", data]
    options += ["--loader", "torch", "--workers", "1", "--image-size", "32", "--device", "cpu"]
    return [*map(str, options), "--scale", "0.01"]


def read(folder):
    return json.loads((folder / "results.json").read_text())


def test_l1_has_a_radius_of_its_own(command, tmp_path):
    assert main([*command, "--norm", "l1", "--out", str(tmp_path)]) == 0
    found = read(tmp_path)
    assert (found["verdict"]["norm"], found["verdict"]["eps"]) == ("l1", 12)
    attacks = {one["name"]: one["parameters"] for one in found["measurements"][1:]}
    assert attacks["APGD-T"]["options"]["target_classes"] == 5
    assert "l1, eps 12" in (tmp_path / "report.html").read_text()


def test_the_help_names_the_radii_that_are_used():
    """The usual ones of benchmarks, of small images and, in its second half, of large ones."""
    source = " ".join(inspect.getsource(config).split())
    small, large = source.partition("for images larger than 64 pixels")[::2]
    for norm, radii in DEFAULT_EPS.items():
        for text, radius in zip((small.rpartition("Default:")[2], large), radii, strict=True):
            written = re.search(rf"{norm} ([\d/.]*\d)", text)[1]
            assert radius == float(Fraction(written)), norm


def test_preprocessing_is_an_option_and_recorded(command, tmp_path, capsys):
    crops = [*command, "--protocol", "corruptions", "--corruptions", str(tmp_path / "c")]
    (tmp_path / "c").mkdir()
    np.save(tmp_path / "c" / "labels.npy", np.zeros(10, np.uint8))
    np.save(tmp_path / "c" / "fog.npy", np.zeros((10, 32, 32, 3), np.uint8))
    printed = {}
    for name, options in {
        "usual": [],
        "same": ["--resize", "37"],
        "other": ["--resize", "40"],
    }.items():
        assert main([*crops, *options, "--out", str(tmp_path / name)]) == 0
        printed[name] = capsys.readouterr().out
        assert re.search(r"fog +(100\.0|0\.0) ", printed[name])  # one image, five times
    assert "short side 40, bilinear, center 32" in printed["other"]
    usual, same, other = (
        read(tmp_path / name)["parameters"] for name in ("usual", "same", "other")
    )
    assert usual["fingerprint"] == same["fingerprint"] != other["fingerprint"]
    assert other["data"].endswith("short side 40, bilinear, center 32")
    assert main([*crops, "--resize", "20"]) == 2
    assert "--resize 20: is smaller than the crop of 32 pixels" in capsys.readouterr().err


def test_corruptions_need_their_protocol(command, tmp_path, capsys):
    assert main([*command, "--corruptions", str(tmp_path)]) == 2
    assert "needs the protocol corruptions" in capsys.readouterr().err


def test_two_processes_write_one_folder(command, tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    arguments = [*command, "--batch-size", "4", "--out"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    program = str(TOOLS / "evaluate_robustness.py")
    done = subprocess.run(
        [sys.executable, *torchrun, program, *arguments, str(tmp_path / "two")],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert main([*arguments, str(tmp_path / "one")]) == 0
    assert done.stdout.count("wrote ") == 1
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    assert two["per_image"] == one["per_image"] and two["verdict"] == one["verdict"]
    assert [m.get("accuracy") for m in two["measurements"]] == [
        m.get("accuracy") for m in one["measurements"]
    ]
