"""Which functions of the package each test executes, and how long it takes."""

from __future__ import annotations

import ast
import hashlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest


@dataclass(frozen=True)
class Test:
    """A test that passed."""

    name: str  # pytest's node ID, relative to the root of the tree
    seconds: float
    functions: frozenset[str]  # PATH::NAME

    @property
    def file(self) -> str:
        return _file(self.name)


def _file(name: str) -> str:
    return name.split("::")[0]


class Recorder:
    """A plugin of pytest that collects what :class:`Test` holds.

    Functions are recorded by their names, since an edit elsewhere moves their lines. Fixtures that
    tests share count for every test of their file. What child processes execute is not seen.
    """

    def __init__(self, root: Path) -> None:
        self._root = f"{root}/"
        self._shared: dict[str, set[str]] = {}
        self._own: dict[str, set[str]] = {}
        self._seconds: dict[str, float] = {}
        self._passed: set[str] = set()
        self._into: set[str] = set()
        self._file = ""

    def _trace(self, frame: FrameType, event: str, arg: object) -> None:
        code = frame.f_code
        if code.co_filename.startswith(self._root):
            self._into.add(f"{code.co_filename[len(self._root) :]}::{code.co_name}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._into = self._own.setdefault(item.nodeid, set())
        self._file = _file(item.nodeid)
        threading.settrace(self._trace)
        sys.settrace(self._trace)
        began = time.monotonic()
        try:
            return (yield)
        finally:
            sys.settrace(None)
            threading.settrace(None)  # pyright: ignore[reportArgumentType]
            self._seconds[item.nodeid] = time.monotonic() - began

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef) -> Iterator[None]:
        before = self._into
        if fixturedef.scope != "function":
            self._into = self._shared.setdefault(self._file, set())
        try:
            return (yield)
        finally:
            self._into = before

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self._passed.add(report.nodeid)

    def content(self) -> list[dict[str, object]]:
        """Return the tests that passed, for JSON."""
        return [
            {
                "name": name,
                "seconds": round(self._seconds[name], 3),
                "functions": sorted(
                    one
                    for one in self._own[name] | self._shared.get(_file(name), set())
                    if one.startswith("sprout_fast/")
                ),
            }
            for name in self._own
            if name in self._passed
        ]


class Selector:
    """A plugin of pytest that runs some tests only, in their order, and notes the first failure."""

    def __init__(self, tests: list[Test]) -> None:
        self._place = {test.name: place for place, test in enumerate(tests)}
        self.failed = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if item.nodeid in self._place]
        items[:] = sorted(chosen, key=lambda item: self._place[item.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid


class Executed:
    """What is known of test files, kept in a folder until the file changes."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self._root = folder, root
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, file: str) -> Path:
        """Return where the content of a :class:`Recorder` for a test file belongs."""
        digest = hashlib.sha256((self._root / file).read_bytes()).hexdigest()[:12]
        return self.folder / f"{file.replace('/', '-').removesuffix('.py')}-{digest}.json"

    def tests(self, files: list[str]) -> list[Test]:
        """Return the tests of the files that were recorded."""
        known = [path for file in files if (path := self.path(file)).exists()]
        return [
            Test(one["name"], one["seconds"], frozenset(one["functions"]))
            for path in known
            for one in json.loads(path.read_text())
        ]


def place_of(source: str, start: int) -> tuple[str | None, set[str]]:
    """Return the function that holds a position, and the functions that depend on it otherwise.

    Outside of functions those are the ones that mention a name to which the position's statement
    assigns.

    >>> place_of("def f(a=1):\\n    return a", 8)
    ('f', set())
    >>> place_of("LIMIT = 3\\ndef f(a):\\n    return a < LIMIT\\ndef g(): pass", 8)
    (None, {'f'})
    """
    line = source.count("\n", 0, start) + 1
    tree = ast.parse(source)
    functions = [
        n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    inside = [f for f in functions if _first_line(f) <= line <= (f.end_lineno or 0)]
    if inside:
        return min(inside, key=lambda f: (f.end_lineno or 0) - f.lineno).name, set()
    assigned = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        and node.lineno <= line <= (node.end_lineno or 0)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    mention = {
        f.name
        for f in functions
        for node in ast.walk(f)
        if (isinstance(node, ast.Name) and node.id in assigned)
        or (isinstance(node, ast.Attribute) and node.attr in assigned)
    }
    return None, mention


def _first_line(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return min([function.lineno, *(one.lineno for one in function.decorator_list)])


def choose(path: str, source: str, start: int, tests: list[Test], starting: set[str]) -> list[Test]:
    """Return the tests that may notice a mistake in a Python file, in the order to run them.

    Those that execute its function come first, or, outside of functions, those that execute one
    that uses what is defined there; then the others of its file and of its folder.

    Args:
        path: of the Python file, from the root of the tree.
        source: its content.
        start: the mistake's position in it.
        tests: all tests.
        starting: test files that start processes, for functions that only those execute.
    """
    name, mention = place_of(source, start)
    subject, stem = path.split("/")[1], Path(path).stem
    if name is not None and not any(f"{path}::{name}" in test.functions for test in tests):
        there = [test for test in tests if test.file in starting]
        return by_file(there, lambda test: (stem not in test.file, subject not in test.file))

    def rank(test: Test) -> int | None:
        if name is not None:
            return 0 if f"{path}::{name}" in test.functions else None
        if any(f"{path}::{one}" in test.functions for one in mention):
            return 0
        if any(one.startswith(f"{path}::") for one in test.functions):
            return 1
        return 2 if test.name.startswith(f"tests/{subject}") else None

    ranked = [test for test in tests if rank(test) is not None]
    return by_file(ranked, lambda t: (rank(t), stem not in t.file, subject not in t.file))


def by_file(tests: list[Test], rank: Callable[[Test], Any]) -> list[Test]:
    """Sort tests by rank, then those of a file together, the quickest files and tests first."""
    seconds: dict[tuple[Any, str], float] = {}
    for test in tests:
        place = rank(test), test.file
        seconds[place] = seconds.get(place, 0) + test.seconds

    def order(test: Test) -> tuple[Any, float, str, float]:
        place = rank(test)
        return place, seconds[place, test.file], test.file, test.seconds

    return sorted(tests, key=order)
