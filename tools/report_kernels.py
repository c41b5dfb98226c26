#!/usr/bin/env python
"""What nvcc made of the CUDA kernels, and what that allows them at best: needs no GPU.

    python tools/report_kernels.py                        # sm_90
    python tools/report_kernels.py --arch sm_80 sm_100 --only gaussian_mixup --json kernels.json

An architecture that the built library does not hold is compiled first, into build/report-ARCH.
Exit status: 0 done, 2 a mistake of yours or a missing tool, told in one line.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kernel_report.build import compiled_files
from kernel_report.disassembly import disassemble
from kernel_report.kernels import row_of, table_of
from kernel_report.machines import MACHINES
from rich.console import Console

from sprout_fast import cli
from sprout_fast.errors import UserError

PROG = "report_kernels.py"


@dataclass
class Options:
    """What the command line takes."""

    arch: tuple[Literal["sm_80", "sm_90", "sm_100", "sm_120"], ...] = ("sm_90",)
    """Architectures: A100, H100, B200, RTX 5090."""

    only: str = ""
    """A regular expression that a kernel's name has to match, as "gaussian_mixup<uint8"."""

    json: Path | None = None
    """Write all numbers there as well."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv

    def body() -> int:
        options = cli.parse_options(Options, argv, PROG, __doc__)
        try:
            wanted = re.compile(options.only)
        except re.error as error:
            raise UserError(f"--only {options.only}: not a regular expression: {error}") from None
        # Wide enough for the table wherever it goes.
        console = Console(width=None if sys.stdout.isatty() else 180)
        report = {}
        for arch in options.arch:
            machine = MACHINES[arch]
            kernels = disassemble(compiled_files(arch), arch)
            rows = [row_of(kernel, machine) for kernel in kernels if wanted.search(kernel.name)]
            if not rows:
                raise UserError(f"--only {options.only}: no kernel has such a name")
            console.print(table_of(rows, arch, machine))
            report[arch] = [dataclasses.asdict(row) for row in rows]
        if options.json is not None:
            options.json.write_text(json.dumps(report, indent=1) + "\n")
        return 0

    return cli.run_tool(PROG, body)


if __name__ == "__main__":
    sys.exit(main())
