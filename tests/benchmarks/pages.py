"""Tables in docs/ that a make target writes."""

from __future__ import annotations

from pathlib import Path

from sprout_fast.files import atomic_write


def markers(target: str) -> tuple[str, str]:
    """Return the lines of a page between which ``make target`` writes."""
    return f"<!-- make {target} -->\n", f"<!-- end of make {target} -->"


def replace_section(page: Path, target: str, new: str) -> None:
    """Replace what is between the markers of ``make target`` in a page.

    Raises:
        ValueError: the page does not contain each marker exactly once, in this order.
    """
    begin, end = markers(target)
    text = page.read_text()
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"expected one line {begin.strip()} and after it one line {end}")
    before, rest = text.split(begin)
    with atomic_write(page) as temporary:
        temporary.write_text(before + begin + new + end + rest.split(end)[1])
