"""When one process of a job fails, all end soon, and the cause is the last line printed."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from helpers.command import run

from sprout_fast.distributed import held_port, joined_world
from sprout_fast.errors import UserError

# Forks the two processes of every job: importing torch takes longer than all that follows.
JOBS = """
import json, os, signal, sys, time
import torch
from sprout_fast.cli import run_tool
from sprout_fast.distributed import joined_world
from sprout_fast.errors import FatalError, UserError

def body(who, fault, timeout):
    with joined_world("cpu", timeout) as world:
        for step in range(6):
            if step == 3:
                # The processes have seen each other, even where a name server that does not answer
                # delays each connection by 5 seconds.
                time.sleep(12)
            if (world.rank, step) == (who, 3):
                if fault == "mistake":
                    raise UserError("photos: no such folder", option="data")
                if fault == "fatal":
                    raise FatalError("the loss is not finite")
                if fault == "bug":
                    raise KeyError("lost")
                if fault == "hang":
                    time.sleep(60)
                os.kill(os.getpid(), getattr(signal, fault))
            world.sum(torch.ones(1))
            print(f"step {step}", flush=True)
    return 0

def start(number, rank, port, *case):
    if pid := os.fork():
        return pid
    log = os.open(f"log{number}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(log, 1), os.dup2(log, 2)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["TORCHELASTIC_RESTART_COUNT"] = str(rank)  # torchrun counts on each node by itself
    sys.argv[0] = "job.py"
    os._exit(run_tool("job.py", lambda: body(*case)))

cases = enumerate(json.loads(sys.argv[1]))
jobs = [[start(number, rank, *case) for rank in (0, 1)] for number, case in cases]
began, ended = time.monotonic(), {}
while len(ended) < 2 * len(jobs):
    pid, status = os.wait()
    ended[pid] = os.waitstatus_to_exitcode(status), time.monotonic() - began
print(json.dumps([[(pid, *ended[pid]) for pid in job] for job in jobs]))
"""

MISTAKE = "job.py: error: --data photos: no such folder"
# Who fails at the fourth step, how, the job's timeout, exit statuses, and the last line. On a busy
# machine the processes of a job may start many seconds apart.
CASES = [
    (2, "none", 60, [0, 0], "step 5"),
    (0, "mistake", 60, [2, 1], MISTAKE),
    (1, "mistake", 60, [1, 2], MISTAKE),
    (1, "fatal", 60, [1, 1], "job.py: error: the loss is not finite"),
    (0, "bug", 60, [1, 1], "KeyError: 'lost'"),
    (1, "SIGKILL", 60, [1, -9], "job.py: error: process 1 of 2 (pid {}) was killed"),
    (0, "SIGKILL", 60, [-9, 1], "job.py: error: lost the connection to process 0"),
    (1, "SIGSTOP", 20, [1, -9], "job.py: error: process 1 of 2 (pid {}) does not answer since "),
    (1, "hang", 20, [1, 1], "job.py: error: another process of the job is gone or does not answer"),
]


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_one_fails_and_all_end_with_the_cause_as_the_last_line(tmp_path: Path) -> None:
    # Unbuffered, a line and its end would be two writes, with those of another process between.
    settings = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": ""}
    with ExitStack() as ports:
        cases = [(ports.enter_context(held_port()), *case[:3]) for case in CASES]
        printed = run(
            *(sys.executable, "-c", JOBS, json.dumps(cases)),
            cwd=tmp_path,
            env=os.environ | settings | {"PYTHONPATH": os.pathsep.join(sys.path)},
            timeout=150,
        )
    for number, (case, ended) in enumerate(zip(CASES, json.loads(printed), strict=True)):
        who, fault, _, statuses, last = case
        text = (tmp_path / f"log{number}").read_text()
        print(fault, ended, text, sep="\n")
        assert [status for _, status, _ in ended] == statuses, case
        *before, final = text.splitlines()
        assert final.startswith(last.format(ended[who % 2][0])), case
        assert not any(line.startswith("job.py") for line in before), case
        assert text.count("Traceback") == (fault == "bug"), case


SET = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
INCOMPLETE = [
    (
        {"WORLD_SIZE": "2"},
        "WORLD_SIZE is 2, but RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT are not",
    ),
    ({"WORLD_SIZE": ""}, "WORLD_SIZE is '': expected a whole number of at least 1"),
    ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two': expected"),
    ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0': expected"),
    ({"SLURM_NTASKS": "4"}, "SLURM_NTASKS is 4, but RANK is not set"),
    (SET | {"RANK": "2"}, "RANK is 2: expected a number below WORLD_SIZE, 2"),
    (SET | {"RANK": "-1"}, "RANK is '-1': expected a whole number of at least 0"),
    (SET | {"LOCAL_RANK": ""}, "LOCAL_RANK is '': expected"),
    ({"RANK": "0"}, "RANK is set, but WORLD_SIZE is not"),
]


@pytest.mark.parametrize(("variables", "message"), INCOMPLETE)
def test_incomplete_variables_of_a_launcher(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*SET, "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=re.escape(message)), joined_world("cpu", 5):
        pass


def test_one_task_of_slurm_trains_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined_world("cpu") as world:
        assert world.size == 1


def test_a_held_port_is_given_to_nobody_else_and_the_store_can_listen_on_it() -> None:
    with ExitStack() as stack:
        held = {stack.enter_context(held_port()) for _ in range(50)}
        assert len(held) == 50
        for _ in range(5000):  # about a fifth of all that Linux gives
            with socket.socket() as other:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                other.bind(("127.0.0.1", 0))
                assert other.getsockname()[1] not in held
        port = held.pop()
        store = torch.distributed.TCPStore("127.0.0.1", port, 1, is_master=True)
        assert store.add("key", 2) == 2


def test_the_port_of_another_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", 0)) as other:
        port = str(other.getsockname()[1])
        job = SET | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in job.items():
            monkeypatch.setenv(name, value)
        message = f"MASTER_PORT is {port}: another program on this machine uses that port"
        with pytest.raises(UserError, match=message), joined_world("cpu", 5):
            pass
