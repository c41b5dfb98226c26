"""Small mistakes in Python and C++ sources, each a change of one place in one file."""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

# Python that computes; tables, plots and texts are left out, whose mistakes a reader sees.
PYTHON = "sprout_fast"
LEFT_OUT = re.compile(
    r"__init__|_version|evaluation/(report|names|outputs|leaderboard|command)|/progress\.py"
    r"|/include/|training/(command|tensorboard)|paper\.py"
)
NATIVE = ("csrc/common", "csrc/ops", "csrc/ops/cpu")
# Generated, for CUDA only (tests/simt has mistakes of its own), or what chooses instruction sets.
NOT_PLANTED = re.compile(r"gamma_series|device_types|^reduce\.h|isa")

OPPOSITES: dict[type[ast.AST], str] = {
    **{ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "=="},
    **{ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in"},
    **{ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "//"},
    **{ast.And: "or", ast.Or: "and"},
}
SWAPPED = {"min": "max", "max": "min", "any": "all", "all": "any"}
NATIVE_CHANGES = (
    (r" < ", " <= "),
    (r" <= ", " < "),
    (r" > ", " >= "),
    (r" >= ", " > "),
    (r" == ", " != "),
    (r" != ", " == "),
    (r" \+ ", " - "),
    (r" - ", " + "),
    (r" \* ", " / "),
    (r" && ", " || "),
    (r" \|\| ", " && "),
    (r" \+= ", " -= "),
    (r"T\(1\)", "T(2)"),
    (r"T\(0\.5\)", "T(0.25)"),
    (r"std::max", "std::min"),
    (r"std::min", "std::max"),
    (r" \? (\w+) : (\w+)", r" ? \2 : \1"),
)


@dataclass(frozen=True)
class Mutant:
    """One mistake: ``path`` with the characters from ``start`` to ``end`` replaced by ``new``."""

    path: str
    start: int
    end: int
    old: str
    new: str
    line: int
    text: str  # of that line

    @property
    def key(self) -> str:
        """Name of the mistake, which does not depend on what is around its line."""
        return f"{self.path}: {self.text}: {self.old} -> {self.new}"

    def apply(self, root: Path) -> str:
        """Make the mistake in the tree ``root``, and return what the file was."""
        source = (root / self.path).read_text(encoding="utf-8")
        if source[self.start : self.end] != self.old:
            raise ValueError(f"{self.path} is not the file that {self.key!r} was made for")
        changed = source[: self.start] + self.new + source[self.end :]
        (root / self.path).write_text(changed, encoding="utf-8")
        return source


class _Finder(ast.NodeVisitor):
    """Collects (start, end, new) of the mistakes in a module."""

    def __init__(self, source: str) -> None:
        self.source, self.found = source, []
        lines = source.splitlines(keepends=True)
        self._starts = [0]
        for line in lines:
            self._starts.append(self._starts[-1] + len(line))
        self._lines = lines

    def _place(self, line: int, column: int) -> int:
        # ast counts bytes
        text = self._lines[line - 1].encode()[:column].decode()
        return self._starts[line - 1] + len(text)

    def _span(self, node: ast.AST) -> tuple[int, int]:
        begin = self._place(node.lineno, node.col_offset)
        return begin, self._place(node.end_lineno, node.end_col_offset)

    def _replace(self, node: ast.AST, new: str) -> None:
        self.found.append((*self._span(node), new))

    def _operator(self, left: ast.AST, right: ast.AST, operator: ast.AST) -> None:
        """Replace the operator between two operands by its opposite."""
        new = OPPOSITES.get(type(operator))
        begin, end = self._span(left)[1], self._span(right)[0]
        match = re.search(
            r"not in|is not|[<>=!]=|//|[-+*/%<>]|\b(in|is|and|or)\b", self.source[begin:end]
        )
        if new is not None and match is not None:
            self.found.append((begin + match.start(), begin + match.end(), new))

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, right, operator in zip(operands, operands[1:], node.ops, strict=False):
            self._operator(left, right, operator)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if not any(
            isinstance(part, (ast.JoinedStr, ast.List, ast.Tuple)) or _is_text(part)
            for part in (node.left, node.right)
        ):
            self._operator(node.left, node.right, node.op)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self._operator(node.values[0], node.values[1], node.op)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, (ast.Not, ast.USub)):
            self._replace(node, ast.get_source_segment(self.source, node.operand) or "")
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) != "TYPE_CHECKING":
            self._replace(node.test, f"not ({ast.get_source_segment(self.source, node.test)})")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._replace(node.test, f"not ({ast.get_source_segment(self.source, node.test)})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._replace(node, str(not node.value))
        elif isinstance(node.value, int):
            self._replace(node, str(node.value + 1))
        elif isinstance(node.value, float):
            self._replace(node, repr(2 * node.value) if node.value else "1.0")

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):  # a call for its effect
            self._replace(node, "None")
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in SWAPPED:
            self._replace(node.func, SWAPPED[node.func.id])
        arguments = sorted([*node.args, *node.keywords], key=self._span)
        for place, one in enumerate(arguments):
            if not isinstance(one, ast.keyword) or one.arg is None:
                continue
            begin, end = self._span(one)  # is left out, and a comma with it
            if place > 0:
                begin = self._span(arguments[place - 1])[1]
            elif len(arguments) > 1:
                end = self._span(arguments[1])[0]
            self.found.append((begin, end, ""))
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        begin, end = self._span(node.target)[1], self._span(node.value)[0]
        for old, new in (("+=", "-="), ("-=", "+="), ("*=", "/="), ("/=", "*="), ("|=", "&=")):
            if old in self.source[begin:end]:
                place = begin + self.source[begin:end].index(old)
                self.found.append((place, place + 2, new))
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        """Leave messages as they are."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Leave texts as they are."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_arg(self, node: ast.arg) -> None:
        """Leave annotations as they are."""


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def in_python(source: str) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, replacement) of every mistake in a Python module.

    >>> source = "if a < b and not c: f(1, key=True)"
    >>> for start, end, new in sorted(in_python(source)):
    ...     print(source[:start] + new + source[end:])
    if not (a < b and not c): f(1, key=True)
    if a <= b and not c: f(1, key=True)
    if a < b or not c: f(1, key=True)
    if a < b and c: f(1, key=True)
    if a < b and not c: None
    if a < b and not c: f(2, key=True)
    if a < b and not c: f(1)
    if a < b and not c: f(1, key=False)
    """
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    yield from finder.found


def in_native(source: str) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, replacement) of every mistake in C++ code, comments and includes apart."""
    place = 0
    for line in source.splitlines(keepends=True):
        code = line.split("//")[0]
        if not code.lstrip().startswith(("#", "static_assert", "template")) and '"' not in code:
            for pattern, new in NATIVE_CHANGES:
                for match in re.finditer(pattern, code):
                    yield place + match.start(), place + match.end(), match.expand(new)
        place += len(line)


def mutants(root: Path, python: int, native: int, seed: int) -> list[Mutant]:
    """Return a random choice of mistakes, the same ones for the same sources and numbers."""
    files = sorted(root.glob(f"{PYTHON}/**/*.py"))
    chosen = _sample(root, [f for f in files if not LEFT_OUT.search(str(f))], python, seed)
    files = sorted(f for folder in NATIVE for f in (root / folder).glob("*.[ch]*"))
    files = [f for f in files if f.suffix in (".h", ".cpp") and not NOT_PLANTED.search(f.name)]
    return chosen + _sample(root, files, native, seed)


def _sample(root: Path, files: Iterable[Path], count: int, seed: int) -> list[Mutant]:
    found = []
    for file in files:
        source = file.read_text(encoding="utf-8")
        lines = source.splitlines()
        find = in_python if file.suffix == ".py" else in_native
        for start, end, new in sorted(set(find(source))):
            line = source.count("\n", 0, start)
            path = str(file.relative_to(root))
            text = lines[line].strip()
            found.append(Mutant(path, start, end, source[start:end], new, line + 1, text))
    # By hash rather than by position, so that an edit elsewhere leaves the choice as it is.
    found.sort(key=lambda one: random.Random(f"{seed} {one.key}").random())
    return list({one.key: one for one in found}.values())[:count]  # one of several alike
