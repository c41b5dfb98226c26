"""The training tools' command line: recipes, YAML files and checkpoints as defaults."""

from __future__ import annotations

import dataclasses
import importlib.resources
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sprout_fast.cli import flag, parse_options
from sprout_fast.errors import UserError
from sprout_fast.registry import nearest
from sprout_fast.training.config import INVOCATION_ONLY, TrainConfig

ConfigT = TypeVar("ConfigT", bound=TrainConfig)


def parse(
    config_type: type[ConfigT],
    argv: Sequence[str],
    prog: str,
    description: str,
    read_checkpoint: Callable[[Path], dict[str, Any]],
) -> tuple[ConfigT, dict[str, Any] | None]:
    """Read the command line; ``--recipe``, ``--resume`` and ``--config`` give defaults to it.

    The recipe's, the checkpoint's and the YAML file's options are put *before* the command line as
    if they had been typed, so that one parser checks all four and the last word wins.

    Returns:
        the options, and the content of the checkpoint that ``--resume`` names, or None.

    Raises:
        UserError: an unknown option, key or choice, or a value of the wrong type.
    """
    given = parse_options(config_type, argv, prog, description)
    typed: list[str] = []
    recipe = given.recipe
    if given.config is not None:
        typed = _as_arguments(_read_yaml(given.config, config_type))
        try:
            recipe = recipe or parse_options(config_type, typed, prog, description).recipe
        except UserError as error:
            raise UserError(f"{given.config}: {error}") from None
    if given.resume is not None and recipe is not None:
        raise UserError(f"--recipe {recipe}: not together with --resume, whose run has its options")
    defaults = [] if recipe is None else _as_arguments(read_recipe(recipe))
    checkpoint = None
    if given.resume is not None:
        checkpoint = read_checkpoint(given.resume)
        stored = dict(checkpoint["config"])
        # The folder may have been moved since: go on beside the checkpoint itself. The weights it
        # once started from are in it.
        stored |= {"out": str(given.resume.parent), "weights": None, "reset_head": False}
        known = {field.name for field in dataclasses.fields(config_type)}
        defaults += _as_arguments({key: stored[key] for key in stored if key in known})
    defaults += typed
    config = (
        parse_options(config_type, [*defaults, *argv], prog, description) if defaults else given
    )
    if recipe is not None and config.method != (its := read_recipe(recipe)["method"]):
        raise UserError(f"--recipe {recipe}: is one of --method {its}, not {config.method}")
    return config, checkpoint


def read_recipe(name: str) -> dict[str, Any]:
    """The options of ``recipes/NAME.yaml``.

    >>> read_recipe("paper")["sigma"]
    0.1
    """
    file = importlib.resources.files("sprout_fast.training") / "recipes" / f"{name}.yaml"
    return yaml.safe_load(file.read_text())


def _read_yaml(path: Path, config_type: type[TrainConfig]) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path}: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"--config {path}: not YAML: {error}") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UserError(
            f"--config {path}: takes 'option: value' lines, got {type(values).__name__}"
        )
    known = [f.name for f in dataclasses.fields(config_type) if f.name not in INVOCATION_ONLY]
    named = {str(key).replace("-", "_"): value for key, value in values.items()}
    for key in named:
        if key not in known:
            raise UserError(f"--config {path}: unknown option {key}{nearest(key, known)}")
    return named


def _as_arguments(values: Mapping[str, Any]) -> list[str]:
    """Options as they would be typed: ``{"compile": True, "lr": 1}`` as ``--compile --lr=1``."""
    arguments = []
    for name, value in values.items():
        if isinstance(value, bool):
            arguments.append(flag(name) if value else "--no-" + flag(name)[2:])
        elif value is not None:
            arguments.append(f"{flag(name)}={value}")
    return arguments
