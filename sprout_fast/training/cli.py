"""Command lines: tyro for the options, YAML and checkpoints for defaults, one line for a mistake.

``--help`` is tyro's own. Its error boxes are folded into one line, so that every mistake of the
user reads ``train_imagenet.py: error: ...``, alone on stderr, and ends with exit status 2.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import errno
import importlib.resources
import io
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml

from sprout_fast.errors import UserError
from sprout_fast.training.config import INVOCATION_ONLY, TrainConfig, flag
from sprout_fast.training.distributed import is_first_to_fail
from sprout_fast.training.errors import FatalError

ConfigT = TypeVar("ConfigT", bound=TrainConfig)

# What the file system says when the folder, not the program, is at fault.
_FOLDER_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EEXIST,
    errno.ENOTDIR,
}


def run_tool(prog: str, body: Callable[[], int]) -> int:
    """Run ``body`` and turn the user's mistakes into one line on stderr and exit status 2.

    Under torchrun it is one line of all processes.
    """
    try:
        return body()
    except UserError as error:
        message, status = str(error), 2
    except FatalError as error:
        message, status = str(error), 1
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno not in _FOLDER_ERRORS:
            raise
        message, status = f"{error.filename or 'output'}: {error.strerror}", 2
    if is_first_to_fail():
        print(f"{prog}: error: {' '.join(message.split())}", file=sys.stderr)
    return status


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


def nearest(name: str, choices: Sequence[str]) -> str:
    """``"; did you mean X?"`` for the choice most like ``name``, or nothing.

    >>> nearest("sprot", ["natural", "sprout"])
    '; did you mean sprout?'
    >>> nearest("xyz", ["natural", "sprout"])
    ''
    """
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.65)
    return f"; did you mean {close[0]}?" if close else ""


def parse_options(
    config_type: type[ConfigT], argv: Sequence[str], prog: str, description: str
) -> ConfigT:
    """``config_type`` from the command line by tyro, whose boxes of errors become a UserError."""
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            config, unknown = tyro.cli(
                config_type,
                args=list(argv),
                prog=prog,
                description=description,
                return_unknown_args=True,
                config=(tyro.conf.DisallowNone,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise  # --help
        raise UserError(_one_line(box.getvalue())) from None
    sys.stderr.write(box.getvalue())  # a warning of tyro's
    if unknown:
        name = unknown[0].split("=")[0]
        flags = [
            prefix + field.name.replace("_", "-")
            for field in dataclasses.fields(config_type)
            for prefix in (("--", "--no-") if field.type in ("bool", bool) else ("--",))
        ]
        kind = "option" if name.startswith("-") else "argument"
        raise UserError(f"unknown {kind} {name}{nearest(name, flags) or f'; see {prog} --help'}")
    return config


def _one_line(box: str) -> str:
    """tyro's error box without frame, title, colours and what follows its first rule."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip("│ ") for line in text.splitlines() if not line.startswith(("╭", "╰"))]
    message = []
    for line in lines:
        if line and not line.strip("─"):
            break
        message.append(line)
    joined = " ".join(" ".join(message).split())
    if choice := re.search(r"invalid choice '(.*?)' for argument '(.*?)'.*?\((.*?)\)", joined):
        got, name, listed = choice.groups()
        choices = sorted(set(re.findall(r"'(.*?)'", listed)) - {"None"})
        return f"{name} {got}: takes {', '.join(choices)}{nearest(got, choices)}"
    if kind := re.search(r"parsing (\S+): no type matching (\S+) could .*? \['(.*?)'\]", joined):
        name, metavar, got = kind.groups()
        return f"{name} {got}: takes {metavar}"
    return re.sub(r"^Error parsing (\S+):", r"\1:", joined).rstrip(".")


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
