"""The command line ``sprout-evaluate``, which answers ``--help`` and mistakes without torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from sprout_fast.cli import parse_options, run_tool
from sprout_fast.evaluation.config import EvaluateConfig

DESCRIPTION = """\
Measure the robustness of a trained model, and check whether the measurement can be trusted.

Examples:
    {prog} --checkpoint run/best.pt --protocol all --limit 200
    {prog} --checkpoint resnet50.pth --arch resnet50 --data /imagenet
    {prog} --checkpoint net.pt --arch mypackage.networks:wide_resnet --data /cifar
    {prog} --checkpoint run/best.pt --protocol paper --surrogate natural/best.pt
    {prog} --compare run/evaluation other/evaluation --out comparison
    torchrun --standalone --nproc-per-node 4 {prog} --checkpoint run/best.pt

Exit status: 0 on success, 130 after Ctrl-C, 1 for an error,
2 for a mistake in the options or the data, which is reported in one line.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate a checkpoint as the command line says, and return the exit status.

    Args:
        argv: the command line without the program's name; ``sys.argv[1:]`` if None.
    """
    arguments = sys.argv[1:] if argv is None else argv
    prog = os.path.basename(sys.argv[0])

    def body() -> int:
        config = parse_options(EvaluateConfig, arguments, prog, DESCRIPTION.format(prog=prog))
        config.check()
        if config.compare:
            from sprout_fast.evaluation.report.side_by_side import write_comparison

            print(f"wrote {write_comparison(config.compare, config.out or '.')}")
            return 0
        if config.robustbench is not None:
            from sprout_fast.evaluation.leaderboard import write_robustbench_entry

            print(f"wrote {write_robustbench_entry(config.robustbench)}")
            return 0
        from sprout_fast.evaluation.from_checkpoint import evaluate_checkpoint  # imports torch

        evaluate_checkpoint(config)
        return 0

    return run_tool(prog, body)
