#!/usr/bin/env python
"""Measure how many images per second this machine reads and decodes from your data.

    python tools/benchmark_loader.py /imagenet
    python tools/benchmark_loader.py /imagenet --needs 2500 --threads 4,8,16

The loaders of training and DALI's decoding alone take turns, at several numbers of threads. With
--needs, the images per second that the GPUs train on, the last line says whether that is enough.
Exit status: 0 success, 2 usage error.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from loader_benchmark.options import Options

from sprout_fast import cli

PROG = "benchmark_loader.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    argv = sys.argv[1:] if argv is None else argv

    def body() -> int:
        options = cli.parse_options(Options, argv, PROG, __doc__ or "")
        options.check()
        from loader_benchmark.command import benchmark  # imports torch

        return benchmark(options)

    return cli.run_tool(PROG, body)


if __name__ == "__main__":
    sys.exit(main())
