"""The measurements of `make gpu-check`, run on the CPU at small sizes."""

import json
import subprocess
import sys
from functools import partial

import gpu_check
import pytest
import torch
from rich.console import Console


def test_every_case_runs_and_is_tabulated(capsys):
    cpu = torch.device("cpu")
    # Dynamo without inductor, whose C++ compiler needs minutes.
    compiler = partial(torch.compile, backend="eager")
    found = list(gpu_check.results(gpu_check.TINY, cpu, compiler))
    assert len(found) == 13
    for result in found:
        expected = {"ours", "eager"}
        if result in found[-4:-1]:  # what SPROUT adds
            expected = {"ours"}
        elif "sprout vs natural" not in result.case.name:
            expected |= {"compiled"} | ({"copy"} if result.case.bytes else set())
        assert result.ms.keys() == expected and result.launches is None
        assert min(result.ms.values()) > 0 or result is found[-2]  # a difference
    sprout, natural, added = (result.ms["ours"] for result in found[-4:-1])
    assert added == sprout - natural
    Console(width=150).print(gpu_check.table_of(found, cpu, 1e7))
    out = capsys.readouterr().out
    assert all(f"{result.case.name} " in out for result in found)
    assert "resnet18 step, bf16: sprout vs natural" in out and "SPROUT adds" in out


def test_ratios():
    """Eager and compiled are divided by ours, ours by copy and floor; a star marks launches."""
    case = gpu_check.Case("op", "2x3", 12, None, None)
    ms = {"ours": 2.0, "eager": 7.0, "compiled": 1.0, "copy": 0.5}
    result = gpu_check.Result(case, ms, {"eager"}, launches=3)
    table = gpu_check.table_of([result], torch.device("cpu"), bytes_per_ms=15.0)
    cells = [list(column.cells)[0] for column in table.columns]
    assert cells == ["op", "2x3", "2.0000", "3.50*", "0.50", "4.00", "0.8000", "2.50", "3"]


def test_launches_are_counted_in_the_profilers_trace(tmp_path):
    """Kernels, copies and fills count; a real profile of the CPU has many events and none."""
    names = ("kernel", "cpu_op", "gpu_memcpy", "cuda_runtime", "gpu_memset", "kernel")
    events = [{"cat": name} for name in names] + [{"ph": "M"}]
    assert gpu_check.launches_in({"traceEvents": events}) == 4
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        torch.zeros(3).add_(1)
    profile.export_chrome_trace(str(tmp_path / "trace.json"))
    trace = json.loads((tmp_path / "trace.json").read_text())
    assert any(event.get("cat") == "cpu_op" for event in trace["traceEvents"])
    assert gpu_check.launches_in(trace) == 0
    assert gpu_check.count_launches(lambda: None, torch.device("cpu")) is None


def test_bandwidth_counts_what_is_read_and_written(monkeypatch):
    monkeypatch.setattr(gpu_check.Stopwatch, "medians", lambda self, calls: {"copy": 4.0})
    assert gpu_check.bandwidth(torch.device("cpu"), 1000, rounds=1) == 500.0


def test_medians_take_turns():
    order = []
    calls = {name: partial(order.append, name) for name in "ab"}
    medians = gpu_check.Stopwatch(torch.device("cpu"), rounds=3).medians(calls)
    assert "".join(order) == "ab" + "ab" * 3 and medians.keys() == {"a", "b"}


def test_composites_are_equivalent_to_the_ops():
    """Baselines have the shapes, dtypes and range of the ops they are compared with."""
    cpu = torch.device("cpu")
    cases = [*gpu_check.mixup_cases(8, 16, cpu), *gpu_check.loss_cases(16, 5, cpu)]
    for case in cases:
        ours, theirs = case.ours(), case.eager()
        pairs = zip(ours, theirs, strict=True) if isinstance(ours, tuple) else [(ours, theirs)]
        for a, b in pairs:
            assert a.shape == b.shape and a.dtype == b.dtype, case.name
            assert a.float().isfinite().all() and b.float().isfinite().all(), case.name
    mixed = [c for c in cases if c.name.startswith("gaussian_mixup, uint8 to float32")][0]
    ours, theirs = mixed.ours(), mixed.eager()
    assert ours.mean() == pytest.approx(theirs.mean().item(), abs=0.02)
    assert ours.std() == pytest.approx(theirs.std().item(), rel=0.02)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_prints_one_line_without_a_gpu():
    done = subprocess.run(
        [sys.executable, gpu_check.__file__], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert done.stdout == "" and done.stderr == "gpu-check: torch finds no GPU\n"
