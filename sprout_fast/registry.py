"""A table of named things that are entered where they are defined."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from sprout_fast.errors import UserError

T = TypeVar("T")


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return ``"; did you mean X?"`` for the choice most like ``name``, or an empty string.

    >>> nearest("sprot", ["natural", "sprout"])
    '; did you mean sprout?'
    >>> nearest("xyz", ["natural", "sprout"])
    ''
    """
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.65)
    return f"; did you mean {close[0]}?" if close else ""


class Registry(Mapping[str, T], Generic[T]):
    """A mapping from names to things of one kind, in order of registration.

    The modules of ``package`` register what they define. They are imported at the first look-up,
    in alphabetical order, so a new entry is a new file that no other file mentions.

    Args:
        kind: what an entry is, for error messages, e.g. ``"attack"``.
        package: dotted name of the package whose modules to import, or None.

    >>> colours = Registry("colour")
    >>> colours.register("red")("#f00")
    '#f00'
    >>> colours.look_up("rde")
    Traceback (most recent call last):
    sprout_fast.errors.UserError: colour: got 'rde', expected one of red; did you mean red?
    """

    def __init__(self, kind: str, package: str | None = None) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that enters its argument under ``name``."""

        def enter(entry: T) -> T:
            self._entries[name] = entry
            return entry

        return enter

    def look_up(self, name: str) -> T:
        """Return the entry called ``name``.

        Raises:
            UserError: no entry has this name; the message lists the names and suggests the nearest.
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
        package, self._package = self._package, None
        if package is not None:
            for module in sorted(
                pkgutil.iter_modules(importlib.import_module(package).__path__),
                key=lambda module: module.name,
            ):
                importlib.import_module(f"{package}.{module.name}")
        return self._entries
