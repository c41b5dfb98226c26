"""Names that are imported when they are first used, because torch takes seconds to import.

The command lines answer ``--help`` and mistakes without it. ``import sprout_fast`` still means that
``torch.ops.sprout_fast`` is registered wherever torch is: at once where torch is imported already,
else right after torch's own import.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


def attach(
    package: str, names: Mapping[str, Sequence[str]], first: str | None = None
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` (PEP 562) for a package.

    Args:
        package: its ``__name__``.
        names: public names by the submodule that defines them, relative to the package.
        first: a module to import before any of them.
    """
    module_of = {name: module for module, defined in names.items() for name in defined}

    def __getattr__(name: str) -> object:
        if first is not None and (name in module_of or name in names):
            importlib.import_module(first)
        if name in module_of:
            value = getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)
            setattr(sys.modules[package], name, value)
            return value
        if name in names:  # a submodule itself
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return __getattr__, lambda: sorted({*vars(sys.modules[package]), *module_of, *names})


def import_with_torch(module: str) -> None:
    """Import ``module`` now if torch is imported, else as soon as it is."""
    if "torch" in sys.modules:
        importlib.import_module(module)
    else:
        sys.meta_path.insert(0, _AfterTorch(module))


class _AfterTorch(importlib.abc.MetaPathFinder):
    """Finds torch as the other finders do, and imports ``module`` when torch has been executed."""

    def __init__(self, module: str) -> None:
        self._module = module

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            loader = spec.loader
            execute = loader.exec_module

            def execute_and_import(torch: ModuleType) -> None:
                del loader.exec_module  # the loader's own again
                execute(torch)
                importlib.import_module(self._module)

            loader.exec_module = execute_and_import  # type: ignore[method-assign]
        return spec
