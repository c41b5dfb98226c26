"""Plan, run and report what ``tools/reproduce_paper.py`` asks for."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console

from reproduction.datasets import IMAGENET
from reproduction.exhibits.base import EXHIBITS, Exhibit
from reproduction.findings import Findings
from reproduction.options import Options
from reproduction.plan import Plan
from reproduction.scale import Scale
from reproduction.side_by_side import SideBySide, headline
from reproduction.store import Store
from sprout_fast.distributed import pick_device
from sprout_fast.errors import UserError


def reproduce(options: Options, argv: Sequence[str]) -> int:
    """Plan, run and report; returns the exit status.

    Args:
        options: already checked.
        argv: arguments as typed, quoted in the report.

    Raises:
        UserError: the images are missing or unsuitable, or the device is not available.
        FatalError: a training failed.
    """
    scale = Scale(options.scale, options.data, options.imagenet, options.seed)
    exhibit = EXHIBITS.look_up(options.exhibit)(scale)
    if not options.plan:
        _check_data(options, exhibit)
    store = Store(options.out, scale, pick_device(options.device))
    # Into a file or a pipe, rich would cut the tables at 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 180)
    try:
        console.print(headline(exhibit), markup=False, highlight=False, soft_wrap=True)
        Plan(exhibit, store).print_to(console)
        if options.plan:
            return 0
        options.out.mkdir(parents=True, exist_ok=True)
        findings = Findings(exhibit, store, lambda text: print(text, flush=True))
        results = SideBySide(findings, store, argv)
        print()
        results.print_to(console)
        saved = ", ".join(str(path) for path in results.write(options.out))
    except KeyboardInterrupt:
        print(f"\ninterrupted; finished work is in {options.out}: rerun the command to resume")
        return 130
    print(f"\nsaved {saved}")
    return 0


def _check_data(options: Options, exhibit: Exhibit) -> None:
    """Raise ``UserError`` if the exhibit's images are not given or do not exist."""
    if not exhibit.trainings():
        return
    is_imagenet = exhibit.dataset is IMAGENET
    option, path = ("imagenet", options.imagenet) if is_imagenet else ("data", options.data)
    if path is None:
        raise UserError(
            f"is required for {exhibit.name}: the images of {exhibit.dataset.name}", option=option
        )
    if not path.exists():
        raise UserError(f"{path}: no such file or folder", option=option)
