"""The same table for a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table


def digits(value: float) -> str:
    """Format with two significant digits, or as an integer from 10 on.

    >>> [digits(value) for value in (0.123, 1.234, 12.34)]
    ['0.12', '1.2', '12']
    """
    return f"{value:.0f}" if value >= 9.95 else f"{value:.2g}" if value < 0.995 else f"{value:.1f}"


def console_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], left: int, *, wrapped: str | None = None
) -> Table:
    """Return a table for a terminal.

    Args:
        columns: headings.
        rows: cells, one per column.
        left: number of leading columns to align left.
        wrapped: heading of a column of prose, which is aligned left and may wrap.
    """
    table = Table(box=None)
    for number, name in enumerate(columns):
        is_text = number < left or name == wrapped
        table.add_column(name, justify="left" if is_text else "right", no_wrap=name != wrapped)
    for row in rows:
        table.add_row(*row)
    return table


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> str:
    """Return a table in Markdown; arguments as in ``console_table``."""
    rules = ["---" if number < left else "---:" for number in range(len(columns))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [columns, rules, *rows])
