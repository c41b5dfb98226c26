#!/usr/bin/env python
"""Train natural, SPROUT, label smoothing and adversarially trained networks, and attack all alike.

  python tools/run_study.py --data cifar10_images.tar                       # ResNet-20, ten hours
  python tools/run_study.py --data cifar10_images.tar --scale 1             # the paper's VGG-16
  python tools/run_study.py --data cifar10_images.tar --page docs/results.md

Trains what is missing, evaluates what is missing, and prints one table. After Ctrl-C or SIGTERM,
rerun the command to resume; when all is done, it only prints the table.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from study.options import Options

from sprout_fast import cli

PROG = "run_study.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status: 0 success, 130 interrupted, 2 usage error."""
    argv = sys.argv[1:] if argv is None else argv

    def body() -> int:
        options = cli.parse_options(Options, argv, PROG, __doc__ or "")
        options.check()
        from study.chain import run_study  # imports torch

        return run_study(options)

    return cli.run_tool(PROG, body)


if __name__ == "__main__":
    sys.exit(main())
