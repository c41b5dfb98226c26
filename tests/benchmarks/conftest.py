"""Fixtures that time bench_*.py.

The whole set runs three times ("turns"), with contestants next to each other, and the summary
compares them within a turn. So changes in clock speed and machine load affect all contestants
alike, and the median of three ignores one disturbed turn. Inputs are created, functions are
compiled, and a first call is made before timing starts.
"""

from __future__ import annotations

from timeit import timeit

import pytest
import torch
from harness import TINY, Case
from training_benchmark import machine
from training_benchmark.malloc import set_malloc

TURNS = 1 if TINY else 3
SECONDS = 0 if TINY else 0.15  # per contestant and turn
SLOW = 0.5  # seconds; slower calls are warmed up once, faster ones twice


def pytest_benchmark_update_machine_info(machine_info):
    machine_info |= machine.machine_info()


OTHERS = machine.OthersUse()


def pytest_benchmark_update_json(output_json):
    """Record the CPU time used by other processes, which delay threads by whole time slices."""
    output_json["machine_info"]["others"] = OTHERS()


@pytest.fixture(scope="session", params=range(TURNS))
def turn(request):
    """Number of the turn; with session scope, pytest runs everything in turn 0 first."""
    torch.manual_seed(0)
    return request.param


@pytest.fixture
def measure(benchmark, turn):
    """``measure(case, contestant)`` times a contestant and records what summary.py reads."""
    threads_before = torch.get_num_threads()

    def measure(case: Case, contestant: str, *, memory: str = "glibc", threads: int = 0) -> None:
        torch.set_num_threads(threads or threads_before)
        benchmark.group = ", ".join(filter(None, (case.op, case.size, case.what, case.setting)))
        benchmark.extra_info.update(
            op=case.op,
            size=case.size,
            what=case.what,
            setting=case.setting,
            contestant=contestant,
            bytes=case.bytes,
            threads=torch.get_num_threads(),
            turn=turn,
            **case.extra,
        )
        before_each = set_malloc(memory, 2**18 if TINY else 2**28)
        call = case.call(contestant)
        once = timeit(call, number=1)
        if once < SLOW or contestant == "compiled":
            once = timeit(call, number=1)
        rounds = min(max(int(SECONDS / once), 3 if once < SLOW else 1), 500)
        benchmark.pedantic(call, setup=before_each, rounds=rounds)

    yield measure
    torch.set_num_threads(threads_before)
