#!/usr/bin/env python
"""Time a training step of every method and of reference code, and show where the time goes.

    python tools/benchmark_training.py                                 # VGG-16 at 32 pixels
    python tools/benchmark_training.py --arch resnet152 --methods natural,sprout --markdown table.md

All rows train the same network on the same batches, in turns (the paper's Table 6). Baselines are
natural training as in torchvision and timm (pip install timm), and SPROUT as in its authors' code
and as in its paper. Exit status: 0 success, 2 usage error.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from training_benchmark.options import Options

from sprout_fast import cli

PROG = "benchmark_training.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    argv = sys.argv[1:] if argv is None else argv

    def body() -> int:
        options = cli.parse_options(Options, argv, PROG, __doc__ or "")
        options.check()
        from training_benchmark.command import benchmark  # imports torch

        return benchmark(options, argv)

    return cli.run_tool(PROG, body)


if __name__ == "__main__":
    sys.exit(main())
