#!/usr/bin/env python
"""Decode every image of a data set and name all that cannot be read.

    python tools/verify_data.py /imagenet --workers 16

Takes what --data of train_imagenet.py takes. Exit status: 0, or 2 where an image is unreadable or
the folder is not a data set.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from sprout_fast import cli
from sprout_fast.data.verify import SplitReport, verify
from sprout_fast.errors import UserError

PROG = "verify_data.py"


@dataclass
class Options:
    """What the command line takes."""

    data: Positional[Path]
    """The data set: an image folder, or a folder of WebDataset tars."""

    workers: int = 2
    """Threads that decode."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv

    def body() -> int:
        options = cli.parse_options(Options, argv, PROG, __doc__)
        if options.workers < 1:
            raise UserError(f"--workers {options.workers}: takes 1 or more")
        unreadable = 0
        for report in verify(options.data, workers=options.workers):
            print(describe(report))
            for line in report.unreadable:
                print(line, file=sys.stderr)
            unreadable += len(report.unreadable)
        if unreadable:
            raise UserError(f"{options.data}: {unreadable} unreadable images, named above")
        return 0

    return cli.run_tool(PROG, body)


def describe(report: SplitReport) -> str:
    """One line for a split."""
    counts = report.per_class
    fewest, most = min(counts, key=counts.get), max(counts, key=counts.get)
    line = (
        f"{report.name}: {report.num_images:,} images of {len(counts)} classes, "
        f"{counts[fewest]:,} ({fewest}) to {counts[most]:,} ({most}) a class"
    )
    if report.smallest is not None:
        (width, height), (wide, high) = report.smallest, report.largest
        line += f", {width}x{height} to {wide}x{high} pixels"
    return line


if __name__ == "__main__":
    sys.exit(main())
