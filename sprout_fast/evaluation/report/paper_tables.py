"""The paper's tables with a row of ours."""

from __future__ import annotations

from dataclasses import dataclass

from sprout_fast.evaluation.report.comparison import Measured, dataset_like, measured
from sprout_fast.evaluation.results import Results
from sprout_fast.paper import METHOD_NAMES, TABLES, PublishedTable

# Its trainings' times, and an ablation whose attacks Table 2 has too.
_LEFT_OUT = (6, 7)


@dataclass(frozen=True)
class Beside:
    """A table of the paper for all its networks.

    Args:
        title: as "Table 2".
        what: the numbers are.
        percent: whether they are percentages.
        columns: headings.
        ours: a number a column, None where it was not measured.
        networks: each with its rows: method's name and numbers.
        notes: on all of them.
    """

    title: str
    what: str
    percent: bool
    columns: list[str]
    ours: list[Measured | None]
    networks: list[tuple[str, list[tuple[str, tuple[float, ...]]]]]
    notes: list[str]


def tables_beside(results: Results) -> list[Beside]:
    """Those of the paper's tables on this data of which more than the clean accuracy was
    measured."""
    groups: dict[str, list[PublishedTable]] = {}
    for table in TABLES:
        if table.dataset == dataset_like(results) and table.table not in _LEFT_OUT:
            groups.setdefault(f"{table.title}: {table.what}", []).append(table)
    return [
        _beside(results, group)
        for group in groups.values()
        if any(
            source not in (None, "clean") and measured(results, source) is not None
            for source in group[0].columns.values()
        )
    ]


def _beside(results: Results, group: list[PublishedTable]) -> Beside:
    first = group[0]
    return Beside(
        title=first.title,
        what=first.what,
        percent=first.percent,
        columns=list(first.columns),
        ours=[measured(results, source) for source in first.columns.values()],
        networks=[
            (
                table.network,
                [(METHOD_NAMES.get(name, name), values) for name, values in table.rows.items()],
            )
            for table in group
        ],
        notes=[
            f"{table.network}: {note}" if len(group) > 1 else note
            for table in group
            for note in table.notes
        ],
    )
