"""Command lines: tyro for the options, one line for a mistake.

``--help`` is tyro's own. Its error boxes are folded into one line, so that every mistake of the
user reads ``train_imagenet.py: error: ...``, alone on stderr, and ends with exit status 2.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import re
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

import tyro

from sprout_fast.distributed import is_first_to_fail
from sprout_fast.errors import FatalError, UserError
from sprout_fast.registry import nearest

ConfigT = TypeVar("ConfigT")
T = TypeVar("T")
# An option that may be left open: None is "choose for me", and its help says what is chosen.
Auto = Annotated[T | None, tyro.conf.arg(help_behavior_hint="")]

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
        option = "" if error.option is None else f"{flag(error.option)} "
        message, status = option + error.message, 2
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


def flag(name: str) -> str:
    """Return the option of a field as the user types it.

    >>> flag("batch_size")
    '--batch-size'
    """
    return "--" + name.replace("_", "-")
