#!/usr/bin/env python
"""Seconds a training step by every method and by others' code, and where they go: Table 6.

    python tools/benchmark_training.py                                 # VGG-16 at 32 pixels
    python tools/benchmark_training.py --arch resnet152 --methods natural,sprout --markdown table.md

All rows train one network on the same batches, in turns. Baselines: natural training as torchvision
and as timm (pip install timm) have it, SPROUT as its authors' code and as its paper have it. Exit
status: 0 done, 2 a mistake of yours, told in one line.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from training_benchmark.command import Options, benchmark

from sprout_fast import cli

PROG = "benchmark_training.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv

    def body() -> int:
        return benchmark(cli.parse_options(Options, argv, PROG, __doc__), argv)

    return cli.run_tool(PROG, body)


if __name__ == "__main__":
    sys.exit(main())
