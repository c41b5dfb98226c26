"""Training by the recipes for natural networks: runs that resume, and what they leave behind."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from evaluate_robustness import main as evaluate
from helpers.image_files import noise_image, write_folder
from helpers.tiny_run import assert_same

from sprout_fast.data import default_loader
from sprout_fast.models import load_model, read_checkpoint
from sprout_fast.training.command import train_imagenet

needs_dali = pytest.mark.skipif(default_loader() != "dali", reason="DALI is not installed")
loaders = pytest.mark.parametrize("loader", [pytest.param("dali", marks=needs_dali), "torch"])
SMALL = shlex.split(
    "--arch cifar_resnet8 --batch-size 4 --epochs 2 --workers 1 --image-size 32 --val-image-size 40"
    " --val-resize 44 --final-attack-images 0"
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {"train": {"a": 7, "b": 7}, "val": {"a": 3, "b": 3}}
    return write_folder(tmp_path_factory.mktemp("photos"), counts, noise_image)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Add in one order, so that a resumed run has the same bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train(out: Path, *argv: str) -> dict:
    assert train_imagenet([*argv, "--out", str(out)]) == 0
    return read_checkpoint(out / "last.pt")


@loaders
@pytest.mark.parametrize(
    "argv",
    [
        "--recipe torchvision-v2 --ema-steps 2",
        "--recipe timm-a2",
        "--recipe nvidia --nesterov --clip-grad 0.1 --min-lr 0.001",
        "--recipe torchvision-v1 --auto-augment rand --erasing 0.5 --optimizer adamw"
        " --layer-decay 0.8 --step-epochs 1",
    ],
)
def test_a_run_resumes_bit_for_bit_by_each_recipe(
    photos: Path, tmp_path: Path, loader: str, argv: str
) -> None:
    options = [*SMALL, *shlex.split(argv), "--data", str(photos), "--loader", loader]
    whole = train(tmp_path / "whole", *options)
    train(tmp_path / "part", *options, "--max-steps", "4")  # of 3 per epoch
    part = train(tmp_path / "part", "--resume", str(tmp_path / "part" / "last.pt"))
    assert whole["step"] == part["step"] == 6
    assert (whole["ema"] is not None) == ("torchvision-v2" in argv)
    for key in ("model", "ema", "optimizer", "rng_state", "loader", "best_top1"):
        assert_same(whole[key], part[key], key)
    recorded = whole["config"]
    assert recorded["val_resize"] == 44 and recorded["lr_batch_size"] is None
    if "timm" in argv:
        assert recorded["auto_augment"] == "rand" and recorded["repeated_augmentation"] == 3


def test_a_model_is_evaluated_at_the_size_that_it_was_validated_at(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    options = [*SMALL, "--recipe", "torchvision-v1", "--data", str(photos), "--loader", "torch"]
    train(out, *options, "--epochs", "1")
    assert load_model(out / "best.pt").image_size == 40
    argv = ["--checkpoint", str(out / "best.pt"), "--out", str(tmp_path / "results")]
    # The shortest protocol; what follows the clean images may need a package.
    evaluate([*argv, "--protocol", "corruptions", "--limit", "2"])
    shown = capsys.readouterr().out
    assert "short side 44, bilinear, center 40" in shown and "clean  " in shown


def test_a_network_of_one_size_is_refused_before_training(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = [*SMALL, "--data", str(photos), "--arch", "vit_b_32", "--method", "natural"]
    assert train_imagenet([*options, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "--val-image-size 40: vit_b_32 does not accept it: Wrong image height" in error


def test_another_layer_decay_cannot_resume(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = [*SMALL, "--data", str(photos), "--recipe", "nvidia", "--layer-decay", "0.5"]
    train(tmp_path / "run", *options, "--loader", "torch", "--max-steps", "1")
    again = ["--resume", str(tmp_path / "run" / "last.pt"), "--layer-decay", "0.6"]
    assert train_imagenet(again) == 2
    assert "was trained with layer_decay 0.5, got layer_decay 0.6" in capsys.readouterr().err
