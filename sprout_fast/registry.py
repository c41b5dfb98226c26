"""Tables of named things, each registered where it is defined."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar, cast

from sprout_fast.errors import UserError

T = TypeVar("T")
EntryT = TypeVar("EntryT")  # not T, so that a decorated function keeps its own signature


def nearest(name: str, choices: Iterable[str], count: int = 1) -> str:
    """Return ``"; did you mean X or Y?"`` with up to ``count`` close choices, or an empty string.

    >>> nearest("sprot", ["natural", "sprout"])
    '; did you mean sprout?'
    >>> nearest("xyz", ["natural", "sprout"])
    ''
    """
    close = difflib.get_close_matches(name, list(choices), n=count, cutoff=0.65)
    return f"; did you mean {' or '.join(close)}?" if close else ""


class Registry(Mapping[str, T], Generic[T]):
    """A mapping from names to things of one kind, in order of registration.

    The modules of ``package`` register what they define. They are imported in alphabetical order at
    the first look-up, so adding an entry means adding a file and editing no other. Entries are then
    in the order of their modules, even if some had been imported before.

    Args:
        kind: What an entry is, for error messages, e.g. ``"attack"``.
        package: Dotted name of the package whose modules to import, or None.

    >>> colors = Registry("color")
    >>> colors.register("red")("#f00")
    '#f00'
    >>> colors.look_up("rde")
    Traceback (most recent call last):
    sprout_fast.errors.UserError: color: got 'rde', expected one of red; did you mean red?
    """

    def __init__(self, kind: str, package: str | None = None) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[EntryT], EntryT]:
        """Return a decorator that registers its argument under ``name``, which must be new."""

        def enter(entry: EntryT) -> EntryT:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is already registered")
            self._entries[name] = cast(T, entry)
            return entry

        return enter

    def look_up(self, name: str) -> T:
        """Return the entry called ``name``, or raise a UserError that lists the names."""
        entries = self._loaded()
        if name not in entries:
            expected = f"{', '.join(entries)}{nearest(str(name), entries)}"
            raise UserError(f"{self.kind}: got {name!r}, expected one of {expected}")
        return entries[name]

    def __getitem__(self, name: str) -> T:
        return self._loaded()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded())

    def __len__(self) -> int:
        return len(self._loaded())

    def _loaded(self) -> dict[str, T]:
        package, self._package = self._package, None  # a module may look up what others registered
        if package is not None:
            try:
                modules = pkgutil.iter_modules(importlib.import_module(package).__path__)
                for name in sorted(module.name for module in modules):
                    importlib.import_module(f"{package}.{name}")
            except BaseException:
                self._package = package  # the next look-up must not see a part of the table
                raise
            by_module = sorted(self._entries.items(), key=lambda x: getattr(x[1], "__module__", ""))
            self._entries = dict(by_module)
        return self._entries
