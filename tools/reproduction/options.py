"""Options of ``tools/reproduce_paper.py``; imports no torch, so that ``--help`` is fast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sprout_fast.cli import Auto
from sprout_fast.errors import UserError

#: Numbers of the paper's tables and figures that can be reproduced.
TABLES, FIGURES = range(2, 12), range(1, 8)

RULES = """\
--scale S in (0,1] shrinks the paper's sizes (S = 1) by these rules:

  training images, epochs   times the square root of S, so a training sees S times as many images
  test images               times the square root of S
  attack steps, restarts    times the fourth root of S (PGD: at least 3 steps)
  batch size                128, or less to have at least 32 batches per epoch
  networks                  S >= 0.1: the paper's; S >= 0.01: ResNet-20 for VGG-16, WRN-16-4 for
                            WRN-34-10; below: ResNet-8 and WRN-10-1. ImageNet: below 0.1
                            ResNet-18, below 0.01 at 96 pixels

     S    training images x epochs   test images   PGD-20, PGD-100, 10 starts
     1             50,000 x 200           10,000      20, 100, 10
  0.01              5,000 x 20             1,000       6, 32, 3
 0.001              1,581 x 6                316       4, 18, 2
0.0001                500 x 2                100       3, 10, 1"""

# Each class is a group of --help, and the docstrings are its help texts.


@dataclass
class ExhibitOptions:
    """What to reproduce."""

    table: Auto[int] = None
    """A table of the paper, 2 to 11."""
    figure: Auto[int] = None
    """A figure of the paper, 1 to 7."""
    scale: float = 0.001
    """Scale in (0,1], see the rules above; 1 is the paper's size."""
    plan: bool = False
    """Only show what would be run."""


@dataclass
class DataOptions:
    """The images."""

    group = "data"

    data: Auto[Path] = None
    """CIFAR-10 as downloaded by torchvision, or a folder or tar with train/CLASS and test/CLASS.
    Required for all but Tables 4, 6 and 10."""
    imagenet: Auto[Path] = None
    """ImageNet with train/CLASS/*.JPEG and val/CLASS/*.JPEG. Required for Tables 4 and 10."""


@dataclass
class RunOptions:
    """Device, seed and output."""

    group = "run"

    device: Auto[str] = None
    """Device, e.g. cuda, cuda:1, cpu. Default: cuda if available, else cpu."""
    seed: int = 0
    """Seed of all trainings and measurements."""
    out: Path = Path("runs/paper")
    """Folder for trainings, measurements and tables; finished work in it is reused."""


@dataclass
class Options(RunOptions, DataOptions, ExhibitOptions):
    """Command-line options."""

    @property
    def exhibit(self) -> str:
        """Name of the table or figure, e.g. ``"table 7"``."""
        return f"figure {self.figure}" if self.table is None else f"table {self.table}"

    def check(self) -> None:
        """Raise ``UserError`` if an option is out of range, or not exactly one exhibit is given."""
        given = [number for number in (self.table, self.figure) if number is not None]
        if len(given) != 1:
            raise UserError(f"expected one table or figure, got {len(given) or 'none'}")
        for option, number, known in (
            ("table", self.table, TABLES),
            ("figure", self.figure, FIGURES),
        ):
            if number is not None and number not in known:
                raise UserError(f"{number}: expected {known[0]} to {known[-1]}", option=option)
        if not 0 < self.scale <= 1:
            raise UserError(
                f"{self.scale:g}: expected a number above 0 and up to 1", option="scale"
            )
        if not 0 <= self.seed < 2**63:
            raise UserError(f"{self.seed}: must be >= 0 and < 2**63", option="seed")
