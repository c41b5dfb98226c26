#!/usr/bin/env python
"""Measure how robust a trained model is, and whether the measurement can be believed.

    python tools/evaluate_robustness.py --checkpoint run/best.pt --protocol all --limit 200
    python tools/evaluate_robustness.py --checkpoint resnet50.pth --arch resnet50 --data /imagenet
    python tools/evaluate_robustness.py --checkpoint run/best.pt --transfer-from natural/best.pt

Exit status: 0 done, 2 a mistake of yours, told in one line, 130 interrupted, 1 anything else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sprout_fast.cli import parse_options, run_tool
from sprout_fast.evaluation.command import EvaluateConfig, run

PROG = "evaluate_robustness.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit status (0 done, 2 the user's mistake, 1 anything else)."""
    argv = sys.argv[1:] if argv is None else argv

    def body() -> int:
        run(parse_options(EvaluateConfig, argv, PROG, __doc__))
        return 0

    return run_tool(PROG, body)


if __name__ == "__main__":
    sys.exit(main())
