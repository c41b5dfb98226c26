"""The command lines: options from dataclasses by tyro, and mistakes in one line.

``--help`` is tyro's own, with the options in groups. Its error boxes become a ``UserError``, so
that every mistake of the user reads ``train_imagenet.py: error: ...``, alone on stderr, and ends
with exit status 2. Nothing here imports torch, which takes seconds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import inspect
import io
import itertools
import os
import re
import signal
import sys
import traceback
import typing
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

try:
    import docstring_parser
    import tyro
except ModuleNotFoundError as error:
    raise SystemExit(
        f"{error.name} is not installed; the command lines need: pip install 'sprout_fast[train]'"
    ) from None

from sprout_fast.errors import FatalError, UserError
from sprout_fast.registry import nearest

ConfigT = TypeVar("ConfigT")
T = TypeVar("T")
# An option that may be left open: None means "choose for me", and its help says what is chosen. To
# type checkers it is also what it is once chosen.
if TYPE_CHECKING:
    Auto = T | Any
else:
    Auto = T | None

# Errors of the file system that the user can correct.
_FOLDER_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
_FOLDER_ERRORS |= {errno.EEXIST, errno.ENOTDIR}
# tyro's names of types, as an error message says them.
_KINDS = {"INT": "an integer", "FLOAT": "a number", "PATH": "a path", "STR": "text"}


def run_tool(prog: str, body: Callable[[], int]) -> int:
    """Call ``body`` and return its exit status; print a mistake of the user in one line on stderr.

    The status is 2 for a mistake of the user, 1 for a :class:`~sprout_fast.errors.FatalError`, and
    130 after Ctrl-C or the argument of the KeyboardInterrupt, if it has one. Among the processes of
    a job, the first one to fail prints, and all exit.
    """
    _print_any_character()
    try:
        return body()
    except UserError as error:
        option = "" if error.option is None else f"{flag(error.option)} "
        message, status = option + error.message, 2
    except FatalError as error:
        message, status = str(error), 1
    except KeyboardInterrupt as stop:
        return _end(f"{prog}: interrupted", stop.args[0] if stop.args else 130)
    except BrokenPipeError:  # the reader of the output has ended, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in _FOLDER_ERRORS:
            return _unforeseen(prog, error)
        message, status = f"{error.filename or 'output'}: {error.strerror}", 2
    except Exception as error:
        return _unforeseen(prog, error)
    return _end(f"{prog}: error: {' '.join(message.split())}", status)


def _unforeseen(prog: str, error: Exception) -> int:
    """Let ``error`` be reported with its traceback."""
    if "RANK" not in os.environ:
        raise error
    from sprout_fast.job import lost_connection

    text = "".join(traceback.format_exception(error)).rstrip()
    if lost_connection(error):
        reason = " ".join(str(error).split())
        text = f"{prog}: error: another process of the job is gone or does not answer: {reason}"
    return _end(text, 1, error)


def _end(message: str, status: int, error: Exception | None = None) -> int:
    if "RANK" in os.environ:  # one process of a job, as torchrun says
        from sprout_fast.job import end_job

        end_job(message, status, error)
    print(message, file=sys.stderr)
    return status


def _print_any_character() -> None:
    """Escape what a stream cannot encode: ASCII terminals, and paths that are not UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def parse_options(
    config_type: type[ConfigT], argv: Sequence[str], prog: str, description: str
) -> ConfigT:
    """Return a ``config_type`` with the options of a command line.

    ``--help`` shows the options in groups. A field belongs to the group that the base class which
    declares it first names in its class attribute ``group``, if any.

    Args:
        config_type: a dataclass; the docstrings under its fields are the help texts.
        argv: the command line without the program's name.
        prog, description: the program's name and what it does, for ``--help``.

    Raises:
        UserError: an unknown option, a missing one, or a value of the wrong type.
        SystemExit: after ``--help``, with status 0.
    """
    groups = _fields_by_group(config_type)
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            parsed, unknown = tyro.cli(
                _parser_type(config_type, groups),
                args=list(argv),
                prog=prog,
                description=description,
                return_unknown_args=True,
                config=(tyro.conf.DisallowNone,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise  # --help
        raise _error_in(box.getvalue()) from None
    sys.stderr.write(box.getvalue())  # a warning of tyro's
    if unknown:
        name = unknown[0].split("=")[0]
        flags = [
            prefix + field.name.replace("_", "-")
            for field in dataclasses.fields(config_type)  # pyright: ignore[reportArgumentType]
            for prefix in (("--", "--no-") if field.type in ("bool", bool) else ("--",))
        ]
        kind = "option" if name.startswith("-") else "argument"
        hint = nearest(name, [*flags, "--help"]) or f"; see {prog} --help"
        raise UserError(f"unknown {kind} {name}{hint}")
    values = {}
    for group, names in groups.items():
        part = parsed if not group else getattr(parsed, _attribute(group))
        values |= {name: getattr(part, name) for name in names}
    return config_type(**values)


def literal_choices(hint: Any) -> tuple[Any, ...]:
    """Return the values of a ``Literal`` or of an optional one; empty for any other annotation.

    >>> literal_choices(Literal["cosine", "stages"] | None)
    ('cosine', 'stages')
    >>> literal_choices(float | Literal["lr"])
    ()
    """
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    return literal_choices(parts[0]) if len(parts) == 1 else ()


def flag(name: str) -> str:
    """Return the option of a field as the user types it.

    >>> flag("batch_size")
    '--batch-size'
    """
    return "--" + name.replace("_", "-")


def _fields_by_group(config_type: type) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {"": []}
    for field in dataclasses.fields(config_type):
        declaring = [b for b in config_type.__mro__ if field.name in inspect.get_annotations(b)]
        groups.setdefault(vars(declaring[-1]).get("group", ""), []).append(field.name)
    return groups


def _parser_type(config_type: type, groups: dict[str, list[str]]) -> type:
    """Return a dataclass like ``config_type`` with a nested one for each group, as tyro shows it.

    tyro shows the line breaks of a help text, so those of the source are removed.
    """
    hints = typing.get_type_hints(config_type, include_extras=True)
    texts: dict[str, str] = {}
    for base in reversed(config_type.__mro__):
        if dataclasses.is_dataclass(base):
            for parameter in docstring_parser.parse_from_object(base).params:
                texts[parameter.arg_name] = " ".join((parameter.description or "").split())
    fields = {field.name: field for field in dataclasses.fields(config_type)}

    def option(name: str) -> tuple[str, Any, Any]:
        text = fields[name].metadata.get("help") or texts.get(name, "")
        default = fields[name].default
        required = default is dataclasses.MISSING
        if isinstance(default, bool):
            text += f" Default: {'on' if default else 'off'}."
        elif default is not None and not required:
            words = default if isinstance(default, tuple) else (default,)
            text += f" Default: {' '.join(map(str, words))}."
        behavior = None if required else ""
        settings = tyro.conf.arg(help=text, help_behavior_hint=behavior, prefix_name=False)
        return name, Annotated[hints[name], settings], dataclasses.field(default=default)

    members = [option(name) for name in groups[""]]
    for group, names in groups.items():
        if group:
            part = dataclasses.make_dataclass("Group", [option(name) for name in names])
            kind = Annotated[part, tyro.conf.arg(name=group)]
            members.append((_attribute(group), kind, dataclasses.field(default_factory=part)))
    return dataclasses.make_dataclass("Options", members)


def _attribute(group: str) -> str:
    return "group_" + re.sub(r"\W", "_", group)


def _error_in(box: str) -> UserError:
    """Return tyro's error box as an error, without its frame, colors and closing hints."""

    def error(message: str, name: str) -> UserError:
        option = name.split(",")[0].removeprefix("--").replace("-", "_")
        return UserError(message, option=option)

    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip("│ ") for line in text.splitlines() if not line.startswith(("╭", "╰"))]
    if "╭" not in text:  # a terminal without Unicode: the title has a rule of its own
        lines = lines[2:]
    message = itertools.takewhile(lambda line: not line or line.strip("─-"), lines)
    joined = " ".join(" ".join(message).split())
    if choice := re.search(r"invalid choice '(.*?)' for argument '(.*?)'.*?\((.*?)\)", joined):
        got, name, listed = choice.groups()
        choices = sorted(set(re.findall(r"'(.*?)'", listed)) - {"None"})
        return error(f"{got}: expected one of {', '.join(choices)}{nearest(got, choices)}", name)
    if kind := re.search(r"parsing (\S+): no type matching (\S+) could .*? \['(.*?)'\]", joined):
        name, metavar, got = kind.groups()
        kinds = [_KINDS.get(word, word.strip("{}")) for word in metavar.split("|")]
        return error(f"{got}: expected {' or '.join(kinds)}", name)
    if missing := re.search(r"Missing value for argument '(\S+?)'", joined):
        return error("needs a value", missing.group(1))
    if number := re.search(r"parsing (\S+): (could not|invalid literal for int).*'(.*?)'", joined):
        name, complaint, got = number.groups()
        return error(f"{got}: expected {_KINDS['INT' if 'int' in complaint else 'FLOAT']}", name)
    return UserError(re.sub(r"^Error parsing (\S+):", r"\1:", joined).rstrip("."))
