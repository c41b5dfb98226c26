"""Recipes whose options depend on the tool and on the initial weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sprout_fast.distributed import World
from sprout_fast.errors import UserError
from sprout_fast.training.command import parse
from sprout_fast.training.config import CifarConfig, TrainConfig
from sprout_fast.training.run import resolve


def parsed(kind: type[TrainConfig], *argv: str) -> TrainConfig:
    return parse(kind, argv, "train", "")[0]


@pytest.mark.parametrize("recipe", ["paper", "expected"])
def test_on_imagenet_from_weights_the_papers_recipe_is_short_and_slow(
    tmp_path: Path, recipe: str
) -> None:
    weights = tmp_path / "natural.pth"
    weights.touch()
    argv = ["--recipe", recipe, "--weights", str(weights)]
    config = parsed(TrainConfig, *argv, "--data", str(tmp_path))
    assert (config.epochs, config.schedule, config.sigma) == (2, "stages", 0.1)
    config.batch_size = 256
    resolved = resolve(config, World(0, 1, torch.device("cpu")))
    assert resolved.lr == pytest.approx(0.01) and resolved.warmup_epochs == pytest.approx(0.2)
    # The command line and a YAML file override the recipe, and the file may give the weights.
    assert parsed(TrainConfig, *argv, "--epochs", "5").epochs == 5
    file = tmp_path / "run.yaml"
    file.write_text(f"recipe: {recipe}\nweights: {weights}\n")
    assert parsed(TrainConfig, "--config", str(file)).epochs == 2


@pytest.mark.parametrize("recipe", ["paper", "expected", "reference-code"])
def test_elsewhere_recipes_leave_the_epochs_as_they_are(tmp_path: Path, recipe: str) -> None:
    weights = tmp_path / "natural.pth"
    weights.touch()
    epochs = 200 if recipe == "reference-code" else None
    for kind, argv in ((TrainConfig, []), (CifarConfig, []), (CifarConfig, ["--weights", weights])):
        config = parsed(kind, "--recipe", recipe, *map(str, argv))
        assert config.epochs == epochs and not hasattr(config, "imagenet_weights")


NATURAL = ["torchvision-v1", "torchvision-v2", "nvidia", "timm-a1", "timm-a2", "timm-a3"]


def resolved(world_size: int, recipe: str, *argv: str) -> TrainConfig:
    config = parsed(TrainConfig, "--recipe", recipe, "--data", ".", *argv)
    config.check()
    return resolve(config, World(0, world_size, torch.device("cpu")))


@pytest.mark.parametrize("recipe", NATURAL)
def test_on_eight_gpus_the_rate_is_the_sources_and_it_scales_with_the_batch(recipe: str) -> None:
    rates = {"torchvision-v1": 0.1, "torchvision-v2": 0.5, "nvidia": 2.048}
    rate = rates.get(recipe, 0.008 if recipe == "timm-a3" else 0.005)
    config = resolved(8, recipe)
    assert config.lr == pytest.approx(rate) and config.lr_batch_size is None
    half = resolved(2, recipe, "--batch-size", str(config.batch_size), "--accumulation-steps", "2")
    assert half.lr == pytest.approx(rate / 2)
    half.lr_batch_size = None  # as in a checkpoint: not scaled again
    assert resolve(half, World(0, 8, torch.device("cpu"))).lr == half.lr


def test_an_averages_decay_is_adjusted_as_torchvision_does() -> None:
    config = resolved(8, "torchvision-v2")
    assert config.ema == pytest.approx(1 - 2e-5 * (8 * 128 * 32 / 600))
    assert not config.ema_adjust and config.ema_steps == 32
    # Never below 0, with which the average is a copy.
    assert resolved(64, "torchvision-v2", "--epochs", "1").ema == 0.0


@pytest.mark.parametrize(
    ("optimizer", "lr", "decay"), [("adamw", 1e-3, 0.05), ("timm-lamb", 2.5e-3, 0.02)]
)
def test_optimizers_have_defaults_of_their_own(optimizer: str, lr: float, decay: float) -> None:
    config = TrainConfig(data=Path(), optimizer=optimizer, batch_size=128)
    found = resolve(config, World(0, 8, torch.device("cpu")))
    assert (found.lr, found.weight_decay) == pytest.approx((lr, decay))
    config.lr, config.weight_decay = 0.5, 0.0
    found = resolve(config, World(0, 8, torch.device("cpu")))
    assert (found.lr, found.weight_decay) == (0.5, 0.0)


def test_a_lowest_rate_above_the_peak_is_refused() -> None:
    with pytest.raises(UserError, match="min_lr 0.2: larger than lr, 0.1"):
        resolve(TrainConfig(lr=0.1, min_lr=0.2), World(0, 1, torch.device("cpu")))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"clip_grad": 0.0}, "clip_grad 0.0: expected a positive number"),
        ({"layer_decay": 1.5}, "layer_decay 1.5: expected a number above 0, at most 1"),
        ({"lr_batch_size": 256}, "lr_batch_size 256: needs lr"),
        ({"nesterov": True, "optimizer": "adamw"}, "nesterov needs optimizer sgd with a momentum"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov needs optimizer sgd with a momentum"),
        ({"ema": 1.0}, "ema 1.0: expected a number from 0 to below 1"),
        ({"ema_steps": 0}, "ema_steps 0: expected a number of at least 1"),
        ({"step_epochs": 0}, "step_epochs 0: expected a number of at least 1"),
        ({"min_lr": -1.0}, "min_lr -1.0: expected a number of at least 0"),
        ({"val_image_size": 4}, "val_image_size 4: expected a number of at least 8"),
        ({"erasing": 2.0}, "erasing 2.0: expected a number from 0 to 1"),
        ({"schedule": "steps"}, "schedule steps: expected one of cosine, stages, step"),
    ],
)
def test_options_that_do_not_fit(options: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        TrainConfig(**options).check()
