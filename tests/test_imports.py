"""The package's own imports: no circle, and the ground floor imports nothing above it."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from helpers.paths import ROOT

GROUND_FLOOR = {
    "_library",
    "random",
    "errors",
    "registry",
    "cli",
    "distributed",
    "job",
    "files",
    "paper",
}


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST) -> set[str]:
    """Dotted names that the code imports, at any depth, but for those under TYPE_CHECKING."""
    names: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        names |= imported(node)
    return names


def import_graph(root: Path, package: str) -> dict[str, set[str]]:
    """The modules of ``root/package``, each with those of them that it imports."""
    trees = {
        module_name(path, root): ast.parse(path.read_text())
        for path in (root / package).rglob("*.py")
    }
    graph = {}
    for module, tree in trees.items():
        found = set()
        for name in imported(tree):
            # "from a.b import c" names the module a.b.c where there is one, else a.b.
            while name and name not in trees:
                name = name.rpartition(".")[0]
            found |= {name} if name else set()
        graph[module] = found - {module}
    return graph


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    return import_graph(ROOT, "sprout_fast")


def test_no_circle(graph):
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("modules import each other: " + " <- ".join(error.args[1]))


def test_the_ground_floor_imports_nothing_above_it(graph):
    ground = {f"sprout_fast.{name}" for name in GROUND_FLOOR}
    assert ground <= set(graph)
    above = {(module, name) for module in ground for name in graph[module] - ground}
    assert not above


def test_training_imports_evaluation_and_not_the_other_way(graph):
    assert not [
        (module, name)
        for module, names in graph.items()
        if module.startswith("sprout_fast.evaluation")
        for name in names
        if name.startswith("sprout_fast.training")
    ]


def test_a_circle_would_be_found(tmp_path):
    """Also one that goes through an import within a function."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("from package.two import function\n")
    (package / "two.py").write_text("def function():\n    from package import one\n    one\n")
    with pytest.raises(CycleError):
        TopologicalSorter(import_graph(tmp_path, "package")).prepare()
