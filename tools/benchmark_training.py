#!/usr/bin/env python
"""Time a training step of every method and of reference code, and show where the time goes.

    python tools/benchmark_training.py                                 # VGG-16 at 32 pixels
    python tools/benchmark_training.py --arch resnet152 --methods natural,sprout --markdown table.md
    python tools/benchmark_training.py --arch resnet50 --methods natural,sprout --data D --world 8

All rows train the same network on the same batches, in turns (the paper's Table 6). Baselines are
natural training as in torchvision and timm (pip install timm), and SPROUT as in its authors' code
and as in its paper. Exit status: 0 success, 2 usage error.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from training_benchmark.options import Options
from training_benchmark.processes import run_processes, starts_processes

from sprout_fast import cli

PROG = "benchmark_training.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    start, argv = time.perf_counter(), sys.argv[1:] if argv is None else argv

    def body() -> int:
        options = cli.parse_options(Options, argv, PROG, __doc__ or "")
        options.check()
        if starts_processes(options.world):
            return run_processes(options.world, argv)
        from training_benchmark.command import benchmark  # imports torch

        return benchmark(options, argv, start)

    return cli.run_tool(PROG, body)


if __name__ == "__main__":
    sys.exit(main())
