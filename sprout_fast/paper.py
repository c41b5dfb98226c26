"""The numbers of the SPROUT paper (Cheng et al., AAAI 2021), and how to measure their counterparts.

They are quoted without changes in paper.json, whose notes point out where the paper contradicts
itself.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

# Names of data sets and networks in the tables.
CIFAR10, IMAGENET = "CIFAR-10", "ImageNet"
VGG, WRN, UNSPECIFIED = "VGG-16", "Wide ResNet", "unspecified network"

#: The paper's names of the methods, by the keys of ``sprout_fast.methods.METHODS``.
METHOD_NAMES = {
    "natural": "natural",
    "pgd_at": "adversarial training",
    "trades": "TRADES",
    "free_at": "Free adversarial training",
    "sprout": "SPROUT",
}


@dataclass(frozen=True)
class PublishedTable:
    """One of the paper's tables, for one network.

    Args:
        table: number of the table; None if the numbers are in the text.
        dataset, network: of the numbers.
        what: what the numbers are, with their unit.
        columns: for each heading its counterpart in the protocol ``paper``: a measurement's name,
            ``"NAME: COLUMN"`` for the mean of one of its columns, or None.
        rows: numbers of each column by method, a key of ``METHOD_NAMES`` or a description.
        percent: whether the numbers are percentages.
        notes: contradictions within this table or with others.
    """

    table: int | None
    dataset: str
    network: str
    what: str
    columns: Mapping[str, str | None]
    rows: Mapping[str, tuple[float, ...]]
    percent: bool = True
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """``"Table N"``, or ``"Text"``."""
        return "Text" if self.table is None else f"Table {self.table}"

    def column(self, heading: str) -> dict[str, float]:
        """Return one column, by method."""
        place = list(self.columns).index(heading)
        return {method: values[place] for method, values in self.rows.items()}


def _read() -> Iterator[PublishedTable]:
    text = (importlib.resources.files("sprout_fast") / "paper.json").read_text(encoding="utf-8")
    for table in json.loads(text):
        for network, content in table.pop("networks").items():
            rows = {method: tuple(numbers) for method, numbers in content["rows"].items()}
            yield PublishedTable(**table, network=network, rows=rows, notes=tuple(content["notes"]))


TABLES = tuple(_read())


def published(table: int | None, network: str) -> PublishedTable:
    """Return a table of the paper (None: numbers in the text) for one network, e.g. :data:`VGG`.

    Raises:
        ValueError: there is no such table, or more than one.

    >>> published(9, WRN).column("3 starts")["sprout"]
    62.53
    """
    (found,) = (one for one in TABLES if (one.table, one.network) == (table, network))
    return found
