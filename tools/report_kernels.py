#!/usr/bin/env python
"""Show the registers, spills and roofline of the compiled CUDA kernels; needs no GPU.

    python tools/report_kernels.py                        # sm_90
    python tools/report_kernels.py --arch sm_80 sm_100 --only gaussian_mixup --json kernels.json

Architectures missing from the built library are first compiled into build/report-ARCH.
Exit status: 0 success, 2 usage error or missing tool.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from kernel_report.command import Options, report

from sprout_fast import cli

PROG = "report_kernels.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    return cli.run_tool(PROG, lambda: report(cli.parse_options(Options, argv, PROG, __doc__ or "")))


if __name__ == "__main__":
    sys.exit(main())
