"""Lazy imports, because ``--help`` and a mistyped option must not wait seconds for torch.

``import sprout_fast`` still guarantees that ``torch.ops.sprout_fast`` is registered, with fakes and
autograd, wherever torch is imported, whichever of the two comes first.
"""

from __future__ import annotations

import ast
import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from itertools import dropwhile
from pathlib import Path
from types import ModuleType
from typing import Any, cast


def attach(
    package: str, file: str
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` (PEP 562) and ``__all__`` of a package.

    ``__init__.pyi`` next to ``file``, which type checkers read, has the names as relative imports
    (compare SPEC 1): ``from .module import name as name``, and ``from . import module as module``
    for a submodule, which is an attribute but not in ``__all__``.
    """
    stub = ast.parse(Path(file).with_name("__init__.pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    imported = [(alias.name, node.module) for node in imports for alias in node.names]
    module_of = {name: module for name, module in imported if module}
    # A module that defines a public name is an attribute as well.
    submodules = {module or name for name, module in imported if "." not in (module or "")}

    def __getattr__(name: str) -> object:
        if name in module_of:
            value = getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)
            setattr(sys.modules[package], name, value)
            return value
        if name in submodules:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *module_of, *submodules})

    return __getattr__, __dir__, sorted(module_of)


def import_after_torch(module: str) -> None:
    """Import ``module`` now if torch is already imported, else as soon as torch is."""
    if sys.modules.get("torch") is not None:
        importlib.import_module(module)
    else:
        sys.meta_path.insert(0, _ImportAfterTorch(module))


# Neither class derives from importlib.abc's: importing that module costs several milliseconds.
class _ImportAfterTorch:
    """Leaves finding torch to the other finders and imports ``module`` after torch.

    Stays in place until that has happened: torch may be looked for without being imported
    (``importlib.util.find_spec``), and its import may fail and be tried again.
    """

    def __init__(self, module: str) -> None:
        self._module = module

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "torch":
            return None
        # Python has asked the finders before this one already.
        others = list(dropwhile(lambda finder: finder is not self, sys.meta_path))[1:]
        specs = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = cast(Any, _Loader(spec.loader, self._after_torch))
        return spec

    def _after_torch(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        if self._module in sys.modules:
            return  # its own import, in this thread or another, waits for torch and then resumes
        try:
            importlib.import_module(self._module)
        except Exception as error:
            # Raised here, it would undo torch's import, which cannot be repeated in a process. The
            # first use of an op raises it again.
            warnings.warn(str(error), RuntimeWarning, stacklevel=3)


class _Loader:
    """Another loader, with something to do after the module has been executed."""

    def __init__(self, loader: Any, then: Callable[[], None]) -> None:
        self._loader, self._then = loader, then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._then()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)  # get_source, get_resource_reader, ...
