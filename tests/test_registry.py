"""Registry: loads a package's files at the first look-up, and suggests the nearest name."""

from __future__ import annotations

import sys

import pytest

from sprout_fast.errors import UserError
from sprout_fast.registry import Registry, nearest


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of attacks, as its folder; the attacks of its files are strings."""
    folder = tmp_path / "attacks_for_test"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from sprout_fast.registry import Registry\nATTACKS = Registry('attack', __name__)\n"
    )
    for stem, name in [("zebra", "z"), ("apple", "pgd"), ("mango", "apgd")]:
        (folder / f"{stem}.py").write_text(
            f"from attacks_for_test import ATTACKS\nATTACKS.register({name!r})({stem!r})\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.startswith("attacks_for_test")]:
        del sys.modules[name]


def attacks() -> Registry[str]:
    from attacks_for_test import ATTACKS  # pyright: ignore[reportMissingImports]

    return ATTACKS


def test_files_are_imported_at_the_first_look_up(package):
    registry = attacks()
    assert "attacks_for_test.apple" not in sys.modules
    assert registry["pgd"] == "apple"
    assert list(registry) == ["pgd", "apgd", "z"]  # by file name
    assert len(registry) == 3 and "z" in registry and "none" not in registry
    assert dict(registry) == {"pgd": "apple", "apgd": "mango", "z": "zebra"}


def test_a_new_entry_is_a_new_file(package):
    (package / "banana.py").write_text(
        "from attacks_for_test import ATTACKS\nATTACKS.register('b')('banana')\n"
    )
    assert attacks().look_up("b") == "banana"


def test_a_file_may_look_up_what_another_one_registers(package):
    (package / "banana.py").write_text(
        "from attacks_for_test import ATTACKS\nATTACKS.register('b')(ATTACKS['pgd'] + '!')\n"
    )
    assert attacks()["b"] == "apple!"


def test_a_file_that_fails_to_import(package):
    """Every look-up fails, rather than the second one finding a part of the table."""
    (package / "banana.py").write_text("import no_such_module\n")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_module"):
            attacks().look_up("z")
    (package / "banana.py").unlink()
    assert len(attacks()) == 3


@pytest.mark.parametrize(
    "name, suggestion",
    [("agpd", "; did you mean apgd?"), ("square", ""), ("PGD", "")],
)
def test_unknown_name(package, name, suggestion):
    with pytest.raises(UserError) as error:
        attacks().look_up(name)
    assert str(error.value) == f"attack: got {name!r}, expected one of pgd, apgd, z{suggestion}"
    with pytest.raises(KeyError):
        attacks()[name]


def test_a_name_is_registered_once():
    registry = Registry[int]("number")
    assert registry.register("one")(1) == 1
    with pytest.raises(ValueError, match="number 'one' is already registered"):
        registry.register("one")(2)
    assert registry["one"] == 1


def test_nearest():
    assert nearest("resnet5", ["resnet18", "resnet50"]) == "; did you mean resnet50?"
    assert nearest("", ["a"]) == nearest("a", []) == ""
