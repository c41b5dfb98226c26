"""The training tools' command lines: recipes, YAML files and checkpoints provide defaults.

torch is imported only after the options have been read and checked.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sprout_fast.cli import flag, parse_options, run_tool
from sprout_fast.errors import UserError
from sprout_fast.registry import nearest
from sprout_fast.training.config import AUTO_RESUME, INVOCATION_ONLY, CifarConfig, TrainConfig

# What a checkpoint's config has besides options.
MODEL_RECORD = {"num_classes", "classes", "mean", "std"}

ConfigT = TypeVar("ConfigT", bound=TrainConfig)

# tyro joins a line that begins with a letter to the one before.
_EXIT_STATUS = """
Exit status: 0 on success, 1 for an error, 2 for a mistake in the options or the data,
130 after Ctrl-C, 75 after SIGTERM or SIGUSR1; after a signal, the run is saved first.
"""


def train_imagenet(argv: Sequence[str] | None = None) -> int:
    """Run ``sprout-train-imagenet``; returns the exit status."""
    description = """\
Train an image classifier on ImageNet or any image folder, with SPROUT or another method.

Examples (without --data, a small sample set is generated and trained on in a few minutes):
    {prog}
    {prog} --arch resnet50 --data /imagenet --weights resnet50.pth
    torchrun --nproc-per-node 8 {script} --data /imagenet --out run
    {prog} --resume run/last.pt
    {prog} --data /imagenet --out run --save-every 10m --resume auto
"""
    return _run(TrainConfig, argv, description)


def train_cifar(argv: Sequence[str] | None = None) -> int:
    """Run ``sprout-train-cifar``; returns the exit status."""
    description = """\
Train an image classifier on CIFAR-10 or another set of small images, with SPROUT or another method.

Examples:
    {prog} --data cifar10_images.tar --arch cifar_resnet20 --method trades
    {prog} --data /cifar --arch cifar_vgg16 --recipe paper --weights natural/best.pt
    {prog} --data /cifar --modules ga,mixup --epochs 20
    {prog} --data /cifar --resume run/last.pt
"""
    return _run(CifarConfig, argv, description)


def _run(config_type: type[TrainConfig], argv: Sequence[str] | None, description: str) -> int:
    prog = os.path.basename(sys.argv[0])
    # torchrun runs a file: a script of tools/, or an installed program by its path.
    script = sys.argv[0] if prog.endswith(".py") else f"$(which {prog})"
    described = description.format(prog=prog, script=script) + _EXIT_STATUS

    def body() -> int:
        typed = sys.argv[1:] if argv is None else argv
        config, checkpoint = parse(config_type, typed, prog, described)
        config.check()
        from sprout_fast.training.run import train

        return train(config, checkpoint)

    return run_tool(prog, body)


def parse(
    config_type: type[ConfigT],
    argv: Sequence[str],
    prog: str,
    description: str,
    read_checkpoint: Callable[[Path], dict[str, Any]] | None = None,
) -> tuple[ConfigT, dict[str, Any] | None]:
    """Read the command line, with defaults from ``--recipe``, ``--resume`` and ``--config``.

    Options of the recipe, the checkpoint and the YAML file are put *before* the command line as if
    they had been typed, so one parser checks all four, and the last one given is used.

    Args:
        config_type, argv, prog, description: as in :func:`sprout_fast.cli.parse_options`.
        read_checkpoint: reads the file of ``--resume``; by default
            :func:`sprout_fast.training.checkpoint.read_run_checkpoint`.

    Returns:
        the options, with the file that ``--resume`` names or found, and its content, or None.

    Raises:
        UserError: an unknown option, key or choice, or a value of the wrong type.
    """

    def options(arguments: Sequence[str]) -> ConfigT:
        return parse_options(config_type, arguments, prog, description)

    given = options(argv)
    recipe, resume, checkpoint, from_yaml = given.recipe, given.resume, None, []
    if given.config is not None:
        from_yaml = _as_arguments(_read_yaml(given.config, config_type))
        try:
            recipe = recipe or options(from_yaml).recipe
        except UserError as error:
            raise UserError(f"{given.config}: {error}", option="config") from None
    if resume == AUTO_RESUME:
        resume, checkpoint = _newest_checkpoint(options([*from_yaml, *argv]).out)
    elif resume is not None and recipe is not None:
        reason = "excluded by resume, since the checkpoint has its own options"
        raise UserError(f"{recipe}: {reason}", option="recipe")
    elif resume is not None:
        if read_checkpoint is None:
            from sprout_fast.training.checkpoint import read_run_checkpoint as read_checkpoint
        checkpoint = read_checkpoint(resume)
    defaults = {}
    if recipe is not None:
        starts = options([*from_yaml, *argv]).weights is not None
        on_imagenet = not issubclass(config_type, CifarConfig)
        defaults = read_recipe(recipe, imagenet_weights=starts and on_imagenet)
    if resume is not None and checkpoint is not None:
        # The run's folder may have been moved: continue in the checkpoint's folder. The checkpoint
        # holds the weights, so the file that the run started from is not needed.
        changed = {"out": str(resume.parent), "weights": None, "reset_head": False}
        known = {field.name for field in dataclasses.fields(config_type)}
        stored = checkpoint["config"] | changed
        if foreign := sorted(set(stored) - known - MODEL_RECORD):
            raise UserError(f"{resume}: config: has {', '.join(foreign)}, unknown to this version")
        defaults = {key: value for key, value in stored.items() if key in known}
    before = _as_arguments(defaults) + from_yaml
    config = options([*before, *argv]) if before else given
    config.resume = resume
    if given.resume == AUTO_RESUME and resume is not None:
        # A job repeats the command line that it was started with; the checkpoint has its weights.
        config.weights, config.reset_head = None, False
    if recipe is not None and config.method != (its := defaults["method"]):
        raise UserError(
            f"{recipe}: is a recipe for method {its}, got method {config.method}", option="recipe"
        )
    if checkpoint is not None and given.arch != config.arch:
        from sprout_fast.models.factory import is_code

        if is_code(config.arch):
            reason = "is imported, which a checkpoint alone does not decide; expected it as arch"
            raise UserError(f"{given.resume}: its network {config.arch} {reason}", option="resume")
    return config, checkpoint


def _newest_checkpoint(out: Path | None) -> tuple[Path | None, dict[str, Any] | None]:
    if out is None:
        raise UserError(f"{AUTO_RESUME}: needs out, the folder of the run", option="resume")
    from sprout_fast.training.checkpoint import newest_checkpoint

    path, content, problems = newest_checkpoint(out)
    if os.environ.get("RANK", "0") == "0":
        for problem in problems:
            print(f"warning: {problem}", flush=True)
    return path, content


def read_recipe(name: str, *, imagenet_weights: bool = False) -> dict[str, Any]:
    """Return the options of ``recipes/NAME.yaml``.

    Args:
        name: name of the recipe.
        imagenet_weights: whether the run is on ImageNet or another image folder and starts from
            weights, for which the recipe's section of that name overrides its other options.

    >>> read_recipe("paper")["sigma"], read_recipe("paper", imagenet_weights=True)["epochs"]
    (0.1, 2)
    """
    file = importlib.resources.files("sprout_fast.training") / "recipes" / f"{name}.yaml"
    options = yaml.safe_load(file.read_text(encoding="utf-8"))
    section = options.pop("imagenet_weights", {})
    return options | section if imagenet_weights else options


def _read_yaml(path: Path, config_type: type[TrainConfig]) -> dict[str, Any]:
    def wrong(reason: object) -> UserError:
        return UserError(f"{path}: {reason}", option="config")

    try:
        values = yaml.safe_load(path.read_bytes())  # which tells UTF-16 by its mark
    except (OSError, UnicodeDecodeError) as error:
        raise wrong(getattr(error, "strerror", None) or error) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f"line {mark.line + 1}: "
        reason = getattr(error, "problem", None) or error
        raise wrong(f"not valid YAML: {line}{reason}") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise wrong(f"expected lines of the form 'option: value', got {type(values).__name__}")
    known = [f.name for f in dataclasses.fields(config_type) if f.name not in INVOCATION_ONLY]
    named = {str(key).replace("-", "_"): value for key, value in values.items()}
    for key in named:
        if key in INVOCATION_ONLY:
            raise wrong(f"{key} belongs on the command line")
        if key not in known:
            raise wrong(f"unknown option {key}{nearest(key, known)}")
    return named


def _as_arguments(values: Mapping[str, Any]) -> list[str]:
    """Return options as they would be typed.

    >>> _as_arguments({"cuda_graph": True, "lr": 1, "modules": ["ga", "mixup"], "data": None})
    ['--cuda-graph', '--lr=1', '--modules=ga,mixup']
    """
    arguments = []
    for name, value in values.items():
        if isinstance(value, bool):
            arguments.append(flag(name) if value else "--no-" + flag(name)[2:])
        elif isinstance(value, list):
            arguments.append(f"{flag(name)}={','.join(map(str, value))}")
        elif value is not None:
            arguments.append(f"{flag(name)}={value}")
    return arguments
