"""The program that verifies a data set: ``sprout-verify-data``, ``tools/verify_data.py``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from sprout_fast import cli
from sprout_fast.data.names import printable
from sprout_fast.errors import UserError

if TYPE_CHECKING:
    from sprout_fast.data.verify import SplitReport


@dataclass
class Options:
    """Options of the command line."""

    data: Positional[Path]
    """The data set: an image folder, a tar of one, WebDataset tars or CIFAR."""

    workers: int = 2
    """Decoding threads."""


def main(argv: Sequence[str] | None = None) -> int:
    """Verify a data set; return the exit status."""
    prog = Path(sys.argv[0]).name

    def body() -> int:
        arguments = sys.argv[1:] if argv is None else argv
        options = cli.parse_options(Options, arguments, prog, _DESCRIPTION)
        if options.workers < 1:
            raise UserError(f"{options.workers}: expected 1 or more", option="workers")
        from sprout_fast.data.verify import verify

        unreadable = 0
        for report in verify(options.data, workers=options.workers):
            print(describe(report))
            for line in report.unreadable:
                print(line, file=sys.stderr)
            unreadable += len(report.unreadable)
        if unreadable:
            shown = printable(options.data)
            raise UserError(f"{shown}: {unreadable} unreadable images, listed above")
        return 0

    return cli.run_tool(prog, body)


_DESCRIPTION = (
    "Decode every image of a data set and report those that training would refuse or convert. "
    "Exit status: 0, or 2 if an image is unreadable or the path is not a data set."
)


def describe(report: SplitReport) -> str:
    """Return the lines printed for a split: its counts and its conversions."""
    counts = report.per_class
    extremes = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    fewest, most = (f"{counts[name]:,} ({printable(name)})" for name in extremes)
    line = (
        f"{report.name}: {report.num_images:,} images of {len(counts)} classes, "
        f"{fewest} to {most} per class"
    )
    if report.smallest is not None and report.largest is not None:
        (width, height), (wide, high) = report.smallest, report.largest
        line += f", {width}x{height} to {wide}x{high} pixels"
    for conversion, (count, example) in report.converted.items():
        line += f"\n{report.name}: {conversion}: {count:,} images, e.g. {example}"
    return line
