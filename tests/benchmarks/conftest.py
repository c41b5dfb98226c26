"""How bench_*.py are timed.

The whole set runs in three turns, one after another, contestants next to each other, and the
summary compares them within a turn: so a drifting clock, or work of others on the machine, does not
fall on one of them alone, and the median of three leaves out a turn that was disturbed. Inputs,
compilation and a first call come before the clock.
"""

from __future__ import annotations

from timeit import timeit

import pytest
import torch
from harness import TINY, Case
from training_benchmark import machine
from training_benchmark.malloc import set_malloc

TURNS = 1 if TINY else 3
SECONDS = 0 if TINY else 0.15  # for a contestant in a turn
SLOW = 0.5  # seconds; such a call is warmed up once, faster ones twice


def pytest_benchmark_update_machine_info(machine_info):
    machine_info |= machine.machine_info()


OTHERS = machine.OthersUse()


def pytest_benchmark_update_json(output_json):
    """How much of the machine others used: with them, threads wait for each other a time slice."""
    output_json["machine_info"]["others"] = OTHERS()


@pytest.fixture(scope="session", params=range(TURNS))
def turn(request):
    """Of session scope: pytest runs everything in turn 0, then everything in turn 1."""
    torch.manual_seed(0)
    return request.param


@pytest.fixture
def measure(benchmark, turn):
    """measure(case, contestant): times it, and leaves in the JSON what summary.py reads."""
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
