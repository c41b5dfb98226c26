"""Tables of named things, each registered where it is defined."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from sprout_fast.errors import UserError

T = TypeVar("T")


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return ``"; did you mean X?"`` for the choice closest to ``name``, or an empty string.

    >>> nearest("sprot", ["natural", "sprout"])
    '; did you mean sprout?'
    >>> nearest("xyz", ["natural", "sprout"])
    ''
    """
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.65)
    return f"; did you mean {close[0]}?" if close else ""


class Registry(Mapping[str, T], Generic[T]):
    """A mapping from names to things of one kind, in order of registration.

    The modules of ``package`` register what they define. They are imported in alphabetical order at
    the first look-up, so adding an entry means adding a file and editing no other.

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

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers its argument under ``name``.

        Raises:
            ValueError: The name is already registered.
        """

        def enter(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is already registered")
            self._entries[name] = entry
            return entry

        return enter

    def look_up(self, name: str) -> T:
        """Return the entry called ``name``.

        Raises:
            UserError: No entry has this name; the message lists the names and suggests the nearest.
        """
        entries = self._loaded()
        if name not in entries:
            raise UserError(
                f"{self.kind}: got {name!r}, expected one of {', '.join(entries)}"
                f"{nearest(str(name), entries)}"
            )
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
        return self._entries
