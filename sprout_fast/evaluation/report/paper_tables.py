"""The paper's tables, with a row for the evaluated model."""

from __future__ import annotations

from dataclasses import dataclass

from sprout_fast.evaluation.report.comparison import Measured, dataset_like, measured
from sprout_fast.evaluation.results import Results
from sprout_fast.paper import METHOD_NAMES, TABLES, PublishedTable

# Training times, and an ablation with the attacks of Table 2.
_LEFT_OUT = (6, 7)


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper, for all of its networks, and the evaluated model's row.

    Attributes:
        title: e.g. ``"Table 2"``.
        what: what the numbers are.
        percent: whether they are percentages.
        columns: headings.
        ours: one number per column, None if it was not measured.
        networks: for each network its name and its rows: the method's name and its numbers.
        notes: notes on all networks.
    """

    title: str
    what: str
    percent: bool
    columns: list[str]
    ours: list[Measured | None]
    networks: list[tuple[str, list[tuple[str, tuple[float, ...]]]]]
    notes: list[str]


def paper_tables(results: Results) -> list[PaperTable]:
    """Return the paper's tables for comparable data that go beyond the clean accuracy."""
    groups: dict[str, list[PublishedTable]] = {}
    for table in TABLES:
        if table.dataset == dataset_like(results) and table.table not in _LEFT_OUT:
            groups.setdefault(f"{table.title}: {table.what}", []).append(table)
    return [
        _paper_table(results, group)
        for group in groups.values()
        if any(
            source not in (None, "clean") and measured(results, source) is not None
            for source in group[0].columns.values()
        )
    ]


def _paper_table(results: Results, group: list[PublishedTable]) -> PaperTable:
    first = group[0]
    return PaperTable(
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
