"""Options of ``tools/report_kernels.py``, and the report they ask for."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from kernel_report.build import compiled_files
from kernel_report.disassembly import disassemble
from kernel_report.gpus import GPUS
from kernel_report.roofline import row_of, table_of
from sprout_fast.cli import Auto
from sprout_fast.errors import UserError


@dataclass
class Options:
    """Command-line options."""

    arch: tuple[Literal["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"], ...] = ("sm_90",)
    """Architectures: sm_80 (A100), sm_86 (A10), sm_89 (RTX 4090), sm_90 (H100), sm_100 (B200),
    sm_120 (RTX 5090)."""
    only: Auto[str] = None
    """Regular expression to select kernels by name, e.g. "gaussian_mixup<uint8". Default: all."""
    json: Auto[Path] = None
    """Also write all numbers to this JSON file."""


def report(options: Options) -> int:
    """Print one table per architecture; returns the exit status.

    Raises:
        UserError: an invalid pattern, a pattern that matches no kernel, or a missing tool.
    """
    try:
        selected = re.compile(options.only or "")
    except re.error as error:
        raise UserError(
            f"{options.only}: not a valid regular expression: {error}", option="only"
        ) from None
    # Into a file or a pipe, rich would cut the table at 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 200)
    numbers = {}
    for arch in options.arch:
        gpu = GPUS[arch]
        kernels = disassemble(compiled_files(arch), arch)
        rows = [row_of(kernel, gpu) for kernel in kernels if selected.search(kernel.name)]
        if not rows:
            raise UserError(f"{options.only}: matches no kernel", option="only")
        console.print(table_of(rows, arch, gpu))
        numbers[arch] = [dataclasses.asdict(row) for row in rows]
    if options.json is not None:
        options.json.write_text(json.dumps(numbers, indent=1) + "\n")
    return 0
