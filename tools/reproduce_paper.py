#!/usr/bin/env python
"""Reproduce a table or figure of the SPROUT paper: its trainings, attacks and timings.

  python tools/reproduce_paper.py --table 7 --data cifar10_images.tar --plan        # what it costs
  python tools/reproduce_paper.py --table 7 --data cifar10_images.tar --scale 0.001 # minutes
  python tools/reproduce_paper.py --table 4 --imagenet imagenet --scale 1           # paper's size

Supports Tables 2 to 11 and Figures 1 to 7, and shows the paper's numbers next to the measured ones.
After Ctrl-C, rerun the command to resume. Trainings that several tables share are run once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from reproduction.options import RULES, Options

from sprout_fast import cli

PROG = "reproduce_paper.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status: 0 success, 130 interrupted, 2 usage error."""
    argv = sys.argv[1:] if argv is None else argv

    def body() -> int:
        options = cli.parse_options(Options, argv, PROG, f"{__doc__}\n{RULES}")
        options.check()
        from reproduction.command import reproduce  # imports torch

        return reproduce(options, argv)

    return cli.run_tool(PROG, body)


if __name__ == "__main__":
    sys.exit(main())
