#!/usr/bin/env python
"""Train an image classifier by any method of Table 1 on ImageNet or any image folder.

    python tools/train_imagenet.py                                    # sample set, a few minutes
    python tools/train_imagenet.py --arch resnet50 --data /imagenet --weights resnet50.pth
    torchrun --nproc-per-node 8 tools/train_imagenet.py --data /imagenet --out run
    python tools/train_imagenet.py --resume run/last.pt

Exit status: 0 done, 2 a mistake of yours, told in one line, 130 interrupted, 1 anything else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sprout_fast.cli import run_tool
from sprout_fast.models import read_checkpoint
from sprout_fast.training.command import parse
from sprout_fast.training.config import TrainConfig
from sprout_fast.training.run import train


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit status (0 done, 2 the user's mistake, 1 anything else)."""
    argv = sys.argv[1:] if argv is None else argv

    def body() -> int:
        config, checkpoint = parse(TrainConfig, argv, PROG, __doc__, read_checkpoint)
        return train(config, checkpoint)

    return run_tool(PROG, body)


PROG = "train_imagenet.py"

if __name__ == "__main__":
    sys.exit(main())
