"""`make bench` at small sizes: every benchmark runs, and the summary is complete."""

import json
import os
import subprocess
import sys
from pathlib import Path

import composites
import label_mass
import pytest
import summary
import torch
import torch.nn.functional as F
from pages import markers

from sprout_fast import SproutLoss, dirichlet, log_gamma, sprout_loss
from sprout_fast.reference.sprout_loss import concentrations

BENCHMARKS = Path(summary.__file__).parent
BEGIN, END = markers("bench")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "bench.json"
    files = sorted({*BENCHMARKS.glob("bench_*.py")} - {*BENCHMARKS.glob("bench_data_*.py")})
    subprocess.run(
        [sys.executable, "-m", "pytest", *files, "--benchmark-quiet", f"--benchmark-json={path}"],
        # pytest-benchmark measures nothing in a worker process of pytest-xdist.
        env={key: value for key, value in os.environ.items() if "XDIST" not in key}
        | {"SPROUT_FAST_BENCH": "tiny", "OMP_NUM_THREADS": "1"},
        cwd=BENCHMARKS.parents[1],
        check=True,
        timeout=300,
    )
    return path


def test_every_op_has_every_contestant_and_finite_ratios(report):
    results = summary.Results(json.loads(report.read_text()))
    rows = [dict(zip(summary.COLUMNS, row, strict=True)) for row in results.rows()]
    ops = {"dirichlet", "sample_mixup", "gaussian_mixup", "generalized_cross_entropy", "log_gamma"}
    modules = {"SproutLoss": {"/ cross entropy"}, "SproutMixup": set()}
    assert {row["op"] for row in rows} == ops | {"pgd_step_", "sprout_loss", *modules}
    for row in rows:
        assert 0 < float(row["ms"]) < float("inf")
        expected = set() if row["op"] in modules else {"eager", "compile"}
        if row["op"] in ("dirichlet", "sample_mixup", "log_gamma", "sprout_loss"):
            expected |= {"distributions"}
        expected |= modules.get(row["op"], set())
        if row["op"] not in ("sample_mixup", *modules):
            expected |= {"/ memcpy"}
        if row["op"] == "sprout_loss":
            expected |= {"/ cross entropy"}
        ratios = {name: row[name] for name in summary.COLUMNS[5:] if row[name]}
        assert ratios.keys() == expected, row
        assert all(0 < float(value) < float("inf") for value in ratios.values())
    measured = {
        (op, what, setting, contestant)
        for (op, _, what, setting), found in results.lines.items()
        for contestant in found
    }
    machine = results.caption()
    assert (
        f"torch with {torch.backends.cpu.get_cpu_capability()}" in machine and "family" in machine
    )
    for floor in summary.floors():  # a tiny run has all of it except the sizes
        for (op, _, what, setting), contestant in filter(None, (floor.above, floor.below)):
            assert (op, what, setting, contestant) in measured, floor.name


def test_files_and_page(report, tmp_path, capsys):
    page = tmp_path / "benchmarks.md"
    page.write_text(f"before\n{BEGIN}old\n{END}\nafter\n")
    assert summary.main([str(report), "--page", str(page)]) == 0
    markdown = report.with_suffix(".md").read_text()
    assert page.read_text() == f"before\n{BEGIN}{markdown}{END}\nafter\n"
    assert "| pgd_step_ | 3×3×8×8 | forward |" in markdown
    assert report.with_name("bench_scaling.png").read_bytes().startswith(b"\x89PNG")
    assert "pgd_step_" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        "no markers",
        BEGIN,
        f"{END}\n{BEGIN}",
        f"{BEGIN}{BEGIN}{END}",
    ],
)
def test_page_without_markers_stays_unchanged(report, tmp_path, capsys, text):
    page = tmp_path / "benchmarks.md"
    page.write_text(text)
    with pytest.raises(SystemExit) as stop:
        summary.main([str(report), "--page", str(page)])
    assert stop.value.code == 2
    assert f"--page {page}: expected one line <!-- make bench -->" in capsys.readouterr().err
    assert page.read_text() == text


def test_the_simulated_gradient_is_that_of_the_op():
    """At an ideal network's logits, one image of each class."""
    loss_fn = SproutLoss(10, alpha=0.2, scale=3.0, label_mode="mean", beta_lr=1.0, seed=4)
    before = loss_fn.beta.double()
    ideal = concentrations(torch.arange(10), None, None, loss_fn.beta, alpha=0.2, scale=3.0).log()
    for _ in range(2):  # logits are defined up to a constant
        loss_fn(ideal + torch.randn(10, 1), torch.arange(10))
        moved = (loss_fn.beta.double() - before) / 10
        expected = torch.from_numpy(label_mass.expected_gradient(before.numpy(), 0.2))
        torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-6)
        loss_fn.beta.copy_(before)


def test_make_bench_updates_the_docs_page():
    makefile = (BENCHMARKS.parents[1] / "Makefile").read_text()
    command = makefile.split("\nbench:")[1].split("\n\n")[0].splitlines()[-1]
    assert command.endswith("summary.py build/bench.json --page docs/benchmarks.md")


def benchmark(contestant, turn, seconds):
    op, size, what = summary.LOSS
    info = dict(op=op, size=size, what=what, setting=summary.PAPER)
    info |= {"contestant": contestant, "turn": turn}
    return {"extra_info": info, "stats": {"median": seconds}}


def test_ratios_are_within_a_turn():
    """A turn in which everything takes twice as long changes no ratio."""
    seconds = {"sprout_fast, expected": 0.002, "torch.distributions": 0.1, "cross_entropy": 0.00025}
    benchmarks = [
        benchmark(name, turn, (1 + turn) * value)
        for turn in range(2)
        for name, value in seconds.items()
    ]
    results = summary.Results(
        {"machine_info": {}, "datetime": "2026-01-02T03:04", "benchmarks": benchmarks}
    )
    (row,) = results.rows()
    assert row[3:] == ["paper, float32, expected", "3", "", "", "50", "8.0", ""]
    verdicts = {floor.name: floor.row(results)[1:] for floor in summary.floors()}
    loss = "sprout_loss 256×1000, paper"
    assert verdicts[f"{loss}, expected: torch.distributions / sprout_fast"] == [
        "≥ 80", "50", "missed",
    ]  # fmt: skip
    assert verdicts[f"{loss}, expected: sprout_fast / cross entropy"] == ["≤ 2", "8", "missed"]
    assert verdicts[f"{loss}, implicit: torch.distributions / sprout_fast"][2] == "not measured"


def test_the_bound_of_the_mixup_is_that_of_the_instruction_set():
    bounds = {isa: [floor.at_most for floor in summary.floors(isa)] for isa in summary.WARM_NS}
    assert [bounds[isa][2] for isa in ("avx512", "avx2")] == [0.25, 0.45]


def test_composites_sample_from_the_ops_distributions():
    """Compare means and standard deviations over 20,000 rows."""
    torch.manual_seed(0)
    state, rows = torch.tensor([1, 2, 0]), 20_000
    a = torch.tensor([0.3, 1.0, 4.0]).expand(rows, 3)
    near = dict(rtol=0.05, atol=0.01)
    for op, baselines in (
        (log_gamma, (composites.log_gamma, composites.log_gamma_distribution)),
        (dirichlet, (composites.dirichlet, composites.dirichlet_distribution)),
    ):
        for baseline in baselines:
            for moment in (torch.mean, torch.std):
                found, expected = moment(baseline(a), 0), moment(op(a, state), 0)
                torch.testing.assert_close(found, expected, **near)
    labels, beta = torch.randint(3, (rows,)), torch.tensor([0.2, 1.0, 0.5])
    logits, one_hot = torch.randn(rows, 3), F.one_hot(labels, 3).float()
    ours = sprout_loss(logits, labels, None, None, beta, state, alpha=1 / 11, scale=11.0)
    for baseline in (composites.sprout_loss, composites.sprout_loss_by_gammas):
        found = baseline(logits, one_hot, beta, 1 / 11, 11.0)
        assert found.item() == pytest.approx(ours.item(), rel=0.01)
    arguments = torch.arange(4), torch.full((2,), 0.2)
    for baseline in (composites.sample_mixup, composites.sample_mixup_distribution):
        lam = torch.cat([baseline(*arguments)[1] for _ in range(2000)])
        assert lam.mean().item() == pytest.approx(0.5, abs=0.05)
        assert lam.var().item() == pytest.approx(0.25 / 1.4, rel=0.1)  # variance of Beta(0.2, 0.2)
