"""Runs cases in builds of the harness that need a separate process.

    LD_PRELOAD=libasan.so python -m simt.jobs < jobs.json

A job is {"module": path, "cases": [names]}. Each runs in a forked process, since the first error of
a sanitizer ends its process and pybind11 keeps one module per name and process. All are forked from
one parent, because importing torch is slow. Prints one JSON line per job: {"status": exit status,
"output": its output}.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import traceback

import torch

from simt.cases import CASES
from simt.harness import Simt


def run(job: dict) -> None:
    torch.set_num_threads(1)
    simt = Simt(job["module"])
    for name in job["cases"]:
        print(name, file=sys.stderr, flush=True)
        with contextlib.suppress(AssertionError):  # values are compared in the test process
            CASES[name](simt)


def main() -> None:
    for job in json.load(sys.stdin):
        with tempfile.TemporaryFile() as output:
            pid = os.fork()
            if pid == 0:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                status = 0
                try:
                    run(job)
                except BaseException:
                    traceback.print_exc()
                    status = 1
                sys.stderr.flush()
                os._exit(status)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            output.seek(0)
            text = output.read().decode(errors="replace")
        print(json.dumps({"status": status, "output": text[-20000:]}), flush=True)


if __name__ == "__main__":
    main()
