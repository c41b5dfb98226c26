#!/usr/bin/env python
"""A table or figure of the SPROUT paper again: its trainings and attacks, and its numbers beside.

  python tools/reproduce_paper.py --table 7 --data cifar10_images.tar --plan        # what it takes
  python tools/reproduce_paper.py --table 7 --data cifar10_images.tar --scale 0.001 # minutes
  python tools/reproduce_paper.py --table 4 --imagenet imagenet --scale 1           # paper's size

Tables 2 to 11, figures 1 to 7. Stopped at any time, the same command goes on; what tables have in
common is trained once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from reproduction.command import Options, reproduce
from reproduction.scale import RULES

from sprout_fast import cli

PROG = "reproduce_paper.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit status: 0 done, 130 stopped, 2 the user's mistake."""
    argv = sys.argv[1:] if argv is None else argv

    def body() -> int:
        return reproduce(cli.parse_options(Options, argv, PROG, f"{__doc__}\n{RULES}"), argv)

    return cli.run_tool(PROG, body)


if __name__ == "__main__":
    sys.exit(main())
