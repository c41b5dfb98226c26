"""The options of ``tools/run_study.py``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sprout_fast.cli import Auto
from sprout_fast.errors import UserError


@dataclass
class Options:
    """What the study runs on and where it keeps its results."""

    data: Path
    """CIFAR-10 as torchvision downloads it, or a folder or tar with train/CLASS and test/CLASS."""
    out: Path = Path("runs/study")
    """Folder for trainings and evaluations; run the same command again to resume."""
    scale: float = 0.1
    """1: the paper's VGG-16 for 200 epochs; from 0.5: VGG-16 for 30 and 15 epochs, minutes on a
    large GPU; from 0.1: ResNet-20 for 60 and 30 epochs, about ten hours on two CPU cores; below: a
    trial that proves nothing."""
    rows: Auto[tuple[str, ...]] = None
    """Networks to train and evaluate, e.g. natural sprout_code; others can follow, and run in other
    processes at the same time. Default: all."""
    page: Auto[Path] = None
    """Update the tables and figures of this page, and the numbers next to it, at the end (in the
    repository, docs/results.md)."""
    device: Auto[str] = None
    """E.g. cuda, cuda:1, cpu. Default: cuda if available, else cpu."""
    compile: bool = False
    """Compile the networks that are trained; ResNet-20 on two CPU cores takes 0.77 of the time."""
    seed: int = 0
    """Seed of all trainings and evaluations."""

    def check(self) -> None:
        """Raise UserError unless the scale is in range."""
        if not 0 < self.scale <= 1:
            raise UserError(f"{self.scale:g}: expected a number in (0, 1]", option="scale")
