"""Recipes whose options depend on the tool and on the initial weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sprout_fast.distributed import World
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
