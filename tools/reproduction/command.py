"""What tools/reproduce_paper.py does."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from reproduction.datasets import IMAGENET
from reproduction.exhibits import EXHIBITS
from reproduction.exhibits.base import Exhibit
from reproduction.findings import Findings
from reproduction.plan import Plan
from reproduction.scale import Scale
from reproduction.side_by_side import Report, headline
from reproduction.store import Store
from sprout_fast.cli import Auto
from sprout_fast.distributed import pick_device
from sprout_fast.errors import UserError


# tyro keeps the line breaks of these help texts, so each line is a sentence.
@dataclass
class Options:
    """What the command line takes."""

    table: Auto[int] = None
    """A table of the paper, 2 to 11."""
    figure: Auto[int] = None
    """A figure of the paper, 1 to 7."""
    data: Auto[Path] = None
    """CIFAR-10 as torchvision downloads it, or a folder or tar with train/CLASS and test/CLASS.
    For all but Tables 4, 6 and 10."""
    imagenet: Auto[Path] = None
    """ImageNet, train/CLASS/*.JPEG and val/CLASS/*.JPEG.
    For Tables 4 and 10."""
    scale: float = 0.001
    """In (0,1], by the rules above; 1 is the paper's size."""
    out: Path = Path("runs/paper")
    """Folder for trainings, measurements and tables, which later commands go on from."""
    plan: bool = False
    """Only show what would be done."""
    device: Auto[str] = None
    """As cuda, cuda:1 or cpu. Default: cuda where there is one, else cpu."""
    seed: int = 0
    """Of all trainings and measurements."""

    def exhibit(self) -> Exhibit:
        """The table or figure that is asked for.

        Raises:
            UserError: none, both, one that the paper has not, a number outside its range.
        """
        asked = [
            (kind, number)
            for kind, number in (("table", self.table), ("figure", self.figure))
            if number is not None
        ]
        if len(asked) != 1:
            raise UserError(f"takes one of --table N and --figure N, got {len(asked) or 'none'}")
        kind, number = asked[0]
        if (kind, number) not in EXHIBITS:
            taken = sorted(known for other, known in EXHIBITS if other == kind)
            raise UserError(f"--{kind} {number}: takes {taken[0]} to {taken[-1]}")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed {self.seed}: must be from 0 up, under 2**63")
        return EXHIBITS[kind, number](Scale(self.scale, self.data, self.imagenet, self.seed))

    def check_data(self, exhibit: Exhibit) -> None:
        """Raise ``UserError`` where the exhibit's images are not given or not there."""
        if not exhibit.trainings():
            return
        is_imagenet = exhibit.dataset is IMAGENET
        name, path = ("--imagenet", self.imagenet) if is_imagenet else ("--data", self.data)
        if path is None:
            raise UserError(f"{exhibit.name} needs {name}, the images of {exhibit.dataset.name}")
        if not path.exists():
            raise UserError(f"{name} {path}: no such file or folder")


def reproduce(options: Options, argv: Sequence[str]) -> int:
    """Plan, run and report; ``argv`` is what was typed. Returns the exit status.

    Raises:
        UserError, FatalError: as its parts do.
    """
    exhibit = options.exhibit()
    if not options.plan:
        options.check_data(exhibit)
    store = Store(options.out, exhibit.scale, pick_device(options.device))
    # Wide enough for the tables wherever they go.
    console = Console(width=None if sys.stdout.isatty() else 180)
    try:
        console.print(headline(exhibit), markup=False, highlight=False, soft_wrap=True)
        Plan(exhibit, store).print_to(console)
        if options.plan:
            return 0
        options.out.mkdir(parents=True, exist_ok=True)
        findings = Findings(exhibit, store, lambda text: print(text, flush=True))
        report = Report(findings, store, argv)
        print()
        report.print_to(console)
        saved = ", ".join(str(path) for path in report.write(options.out))
    except KeyboardInterrupt:
        print(
            f"\ninterrupted; what is done is in {options.out}: the same command goes on from there"
        )
        return 130
    print(f"\nsaved {saved}")
    return 0
