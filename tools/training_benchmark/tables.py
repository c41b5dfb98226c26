"""One table for two readers: a person at a terminal, and Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table


def digits(value: float) -> str:
    """Two significant digits, or whole from 10 on.

    >>> [digits(value) for value in (0.123, 1.234, 12.34)]
    ['0.12', '1.2', '12']
    """
    return f"{value:.0f}" if value >= 9.95 else f"{value:.2g}" if value < 0.995 else f"{value:.1f}"


def console_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], left: int, *, wrapped: str | None = None
) -> Table:
    """For a terminal; the first ``left`` columns are text, and so is ``wrapped``, of prose."""
    table = Table(box=None)
    for number, name in enumerate(columns):
        is_text = number < left or name == wrapped
        table.add_column(name, justify="left" if is_text else "right", no_wrap=name != wrapped)
    for row in rows:
        table.add_row(*row)
    return table


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> str:
    """The same in Markdown."""
    rules = ["---" if number < left else "---:" for number in range(len(columns))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [columns, rules, *rows])
