"""The methods' options, read from their source files with :mod:`ast`.

Importing a method imports torch, and ``--help`` and a mistyped option must not wait seconds for it.
"""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docstring_parser

PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class MethodOption:
    """A keyword-only argument of a method's ``__init__``; its help is in the class's docstring."""

    name: str
    type: Any
    default: Any
    help: str


@functools.cache
def method_options() -> dict[str, tuple[MethodOption, ...]]:
    """Return the options of every method, by the method's name.

    >>> [option.name for option in method_options()["trades"]]
    ['eps', 'step_size', 'attack_steps', 'kl_weight']
    """
    found = {}
    for path in sorted((PACKAGE / "methods").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and (name := _registered_name(node)):
                found[name] = tuple(_options_of(node, _ModuleNames(tree)))
    return found


def _registered_name(node: ast.ClassDef) -> str | None:
    """Return "x" of ``class X(Method, name="x")``, else None."""
    values = [keyword.value for keyword in node.keywords if keyword.arg == "name"]
    return ast.literal_eval(values[0]) if values else None


def _options_of(node: ast.ClassDef, names: _ModuleNames) -> Iterator[MethodOption]:
    documented = {
        parameter.arg_name: " ".join((parameter.description or "").split()).rstrip(".")
        for parameter in docstring_parser.parse(ast.get_docstring(node) or "").params
    }
    for function in node.body:
        if isinstance(function, ast.FunctionDef) and function.name == "__init__":
            pairs = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
            for argument, default in pairs:
                kind, value = names.evaluate(argument.annotation), names.evaluate(default)
                yield MethodOption(argument.arg, kind, value, documented[argument.arg])


class _ModuleNames(dict):
    """Names that a module assigns or imports, each evaluated at its first use."""

    def __init__(self, tree: ast.Module) -> None:
        self._tree = tree

    def evaluate(self, node: ast.expr | None) -> Any:
        """Return the value of an annotation or a default."""
        assert node is not None, "a method's option needs an annotation and a default"
        return eval(compile(ast.Expression(node), "<option>", "eval"), {}, self)

    def __missing__(self, name: str) -> Any:
        for node in self._tree.body:
            if isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets):
                return self.evaluate(node.value)
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                for alias in node.names:
                    if name == (alias.asname or alias.name):
                        return _imported(node.module, alias.name)
        raise KeyError(name)  # a builtin, such as float


def _imported(module: str, name: str) -> Any:
    if not module.startswith(f"{PACKAGE.name}."):
        return getattr(importlib.import_module(module), name)
    path = PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")
    return _ModuleNames(ast.parse(path.read_text(encoding="utf-8")))[name]
