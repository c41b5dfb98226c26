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
import os
import re
import sys
import typing
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import docstring_parser
import tyro

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
_FOLDER_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EEXIST,
    errno.ENOTDIR,
}
# tyro's names of types, as an error message says them.
_KINDS = {"INT": "an integer", "FLOAT": "a number", "PATH": "a path", "STR": "text"}


def program_name() -> str:
    """Return the name of the program as the user typed it, without its folder."""
    return os.path.basename(sys.argv[0])


def run_tool(prog: str, body: Callable[[], int]) -> int:
    """Call ``body`` and return its exit status; print a mistake of the user in one line on stderr.

    Under torchrun, one process prints it for all.

    Returns:
        the status that ``body`` returned, 2 for a mistake of the user, 1 for a
        :class:`~sprout_fast.errors.FatalError`, 130 after Ctrl-C.
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
    if _is_first_to_fail():
        print(f"{prog}: error: {' '.join(message.split())}", file=sys.stderr)
    return status


def _is_first_to_fail() -> bool:
    """Return whether this is the first process of a torchrun job that asks; True without torchrun.

    A mistake that all processes make is then printed once, and one that a single process makes is
    printed too, whichever process it is. They ask the store that torchrun's agent keeps.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    import torch.distributed as dist

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]  (documented as dist's)
            host, port, is_master=False, timeout=timedelta(seconds=5)
        )
        return store.add(f"sprout_fast/failed/{os.environ['TORCHELASTIC_RESTART_COUNT']}", 1) == 1
    except dist.DistError:  # the agent has exited
        return True


def parse_options(
    config_type: type[ConfigT], argv: Sequence[str], prog: str, description: str
) -> ConfigT:
    """Return a ``config_type`` with the options of a command line.

    ``--help`` shows the options in groups. A field belongs to the group that its metadata names
    under ``"group"``, else to the class attribute ``group`` of the base class that declares it
    first, else to no group.

    Args:
        config_type: a dataclass; the docstrings under its fields are the help texts.
        argv: the command line without the program's name.
        prog: the program's name, for ``--help``.
        description: what the program does, for ``--help``.

    Raises:
        UserError: an unknown option, a missing one, or a value of the wrong type.
        SystemExit: after ``--help``, with status 0.
    """
    groups = _fields_by_group(config_type)
    parser_type = _parser_type(config_type, groups)
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            parsed, unknown = tyro.cli(
                parser_type,
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
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    if len(parts) == 1 and typing.get_origin(parts[0]) is Literal:
        return typing.get_args(parts[0])
    return ()


def flag(name: str) -> str:
    """Return the option of a field as the user types it.

    >>> flag("batch_size")
    '--batch-size'
    """
    return "--" + name.replace("_", "-")


def _fields_by_group(config_type: type) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {"": []}
    for field in dataclasses.fields(config_type):
        declaring = [
            base for base in config_type.__mro__ if field.name in inspect.get_annotations(base)
        ]
        group = field.metadata.get("group") or vars(declaring[-1]).get("group", "")
        groups.setdefault(group, []).append(field.name)
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
        hint = None
        if default is not dataclasses.MISSING:
            hint = ""
            if isinstance(default, bool):
                text += f" Default: {'on' if default else 'off'}."
            elif default is not None:
                text += f" Default: {default}."
        settings = tyro.conf.arg(help=text, help_behavior_hint=hint, prefix_name=False)
        kind = Annotated[hints[name], settings]
        return name, kind, dataclasses.field(default=default)

    members = [option(name) for name in groups[""]]
    for group, names in groups.items():
        if group:
            part = dataclasses.make_dataclass("Group", [option(name) for name in names])
            kind = Annotated[part, tyro.conf.arg(name=group, help="")]
            members.append((_attribute(group), kind, dataclasses.field(default_factory=part)))
    return dataclasses.make_dataclass("Options", members)


def _attribute(group: str) -> str:
    return "group_" + re.sub(r"\W", "_", group)


def _error_in(box: str) -> UserError:
    """Return tyro's error box as an error, without its frame, colors and closing hints."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip("│ ") for line in text.splitlines() if not line.startswith(("╭", "╰"))]
    if "╭" not in text:  # a terminal without Unicode: the title has a rule of its own
        lines = lines[2:]
    message = []
    for line in lines:
        if line and not line.strip("─-"):
            break
        message.append(line)
    joined = " ".join(" ".join(message).split())
    if choice := re.search(r"invalid choice '(.*?)' for argument '(.*?)'.*?\((.*?)\)", joined):
        got, name, listed = choice.groups()
        choices = sorted(set(re.findall(r"'(.*?)'", listed)) - {"None"})
        return UserError(
            f"{got}: expected one of {', '.join(choices)}{nearest(got, choices)}",
            option=_field_name(name),
        )
    if kind := re.search(r"parsing (\S+): no type matching (\S+) could .*? \['(.*?)'\]", joined):
        name, metavar, got = kind.groups()
        kinds = [_KINDS.get(word, word.strip("{}")) for word in metavar.split("|")]
        return UserError(f"{got}: expected {' or '.join(kinds)}", option=_field_name(name))
    if missing := re.search(r"Missing value for argument '(\S+?)'", joined):
        return UserError("needs a value", option=_field_name(missing.group(1)))
    if number := re.search(r"parsing (\S+): (could not|invalid literal for int).*'(.*?)'", joined):
        name, complaint, got = number.groups()
        kind = "INT" if "int" in complaint else "FLOAT"
        return UserError(f"{got}: expected {_KINDS[kind]}", option=_field_name(name))
    return UserError(re.sub(r"^Error parsing (\S+):", r"\1:", joined).rstrip("."))


def _field_name(name: str) -> str:
    return name.split(",")[0].removeprefix("--").replace("-", "_")
