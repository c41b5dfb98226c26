#!/usr/bin/env python
"""Time every op and a SPROUT training step on a GPU; the last part of `make gpu-check`.

Each op is compared with eager PyTorch, torch.compile, a copy of the same number of bytes and its
memory floor, the time of its bytes at the bandwidth of a large copy. What SPROUT adds to natural
training is timed without the network, and whole steps launched and as CUDA graphs. On CUDA, calls
are captured into a graph (or launched and marked if that is not possible), timed with events, and
preceded by a write of twice the size of the L2 cache, so that inputs are read from memory; the
profiler counts what they launch. Contestants take turns, and their medians are compared.
tests/benchmarks/test_gpu_check.py runs the same code on the CPU at small sizes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import _paths  # noqa: F401
import composites
import torch
import torch.nn.functional as F
from composites import MEAN, STD
from rich.console import Console
from rich.table import Table
from torch import Tensor
from training_benchmark.added import measure_added, own_part
from training_benchmark.contestants import build_methods
from training_benchmark.trainee import build_trainee, synthetic_batches

from sprout_fast import (
    dirichlet,
    gaussian_mixup,
    generalized_cross_entropy,
    log_gamma,
    pgd_step_,
    sample_mixup,
    sprout_loss,
)
from sprout_fast.errors import UserError
from sprout_fast.training.graph import CapturedStep, captured, side_stream


@dataclass(frozen=True)
class Sizes:
    """Sizes to measure: (batch, side) of images, (batch, classes) of losses and samplers."""

    images: tuple[tuple[int, int], ...] = ((128, 32), (256, 224))
    rows: tuple[tuple[int, int], ...] = ((128, 10), (256, 1000), (64, 100_000))
    arch: str = "resnet152"
    step: tuple[int, int] = (64, 224)
    classes: int = 1000
    rounds: int = 50
    step_rounds: int = 20
    added_seconds: float = 5.0
    copy: int = 2**30  # bytes of the copy that shows the bandwidth


TINY = Sizes(
    ((3, 8),), ((3, 5),), "resnet18", (2, 32), classes=5, rounds=2, step_rounds=2,
    added_seconds=0.0, copy=2**20,
)  # fmt: skip


@dataclass
class Case:
    """One row of the table.

    Args:
        name, size: displayed.
        bytes: bytes that ``ours`` has to move; 0 to omit the copy.
        ours: sprout_fast's call.
        eager: PyTorch's call, also run under torch.compile.
    """

    name: str
    size: str
    bytes: int
    ours: Callable[[], object]
    eager: Callable[[], object]


@dataclass
class Result:
    """One row of the table, measured.

    Args:
        case: what was measured.
        ms: median ms by contestant.
        launched: the contestants that could not be captured into a graph.
        launches: kernels, copies and fills that a call of ours launches; None without a GPU.
    """

    case: Case
    ms: dict[str, float]
    launched: set[str] = field(default_factory=set)
    launches: int | None = None


class Stopwatch:
    """Times calls on a device.

    Args:
        device: a CUDA device is timed with events and a cold L2 cache, others by the clock.
        rounds: number of calls of each contestant.
    """

    def __init__(self, device: torch.device, rounds: int) -> None:
        self.device = device
        self.rounds = rounds
        self.flush = None
        if device.type == "cuda":
            l2 = torch.cuda.get_device_properties(device).L2_cache_size
            self.flush = torch.empty(2 * l2, dtype=torch.uint8, device=device)

    def medians(self, calls: dict[str, Callable[[], object]]) -> dict[str, float]:
        """Return the median ms of each call; they take turns, so that clock changes affect all."""
        seconds: dict[str, list[Callable[[], float]]] = {name: [] for name in calls}
        for call in calls.values():
            call()
        for _ in range(self.rounds):
            for name, call in calls.items():
                seconds[name].append(self._time(call))
        if self.flush is not None:
            torch.cuda.synchronize(self.device)
        return {n: statistics.median(read() for read in reads) for n, reads in seconds.items()}

    def _time(self, call: Callable[[], object]) -> Callable[[], float]:
        """Run ``call`` and return a function that reads its ms, valid once the device is done."""
        if self.flush is None:
            start = time.perf_counter()
            call()
            elapsed = 1e3 * (time.perf_counter() - start)
            return lambda: elapsed
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.flush.zero_()
        before.record()
        call()
        after.record()
        return lambda: before.elapsed_time(after)


def replayed(call: Callable[[], object], device: torch.device) -> Callable[[], object] | None:
    """Return the call as a CUDA graph's replay, or None if it cannot be captured."""
    if device.type != "cuda":
        return None
    with side_stream(device):
        for _ in range(3):
            call()
    try:
        return captured(call).replay
    except UserError:  # the call synchronizes
        torch.cuda.synchronize(device)
        return None


def count_launches(call: Callable[[], object], device: torch.device) -> int | None:
    """Return how many kernels, copies and fills a call launches on a GPU; None without one."""
    if device.type != "cuda":
        return None
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    torch.cuda.synchronize(device)
    with torch.profiler.profile(activities=activities) as profile:
        call()
        torch.cuda.synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        profile.export_chrome_trace(str(path := Path(folder, "trace.json")))
        return launches_in(json.loads(path.read_text()))


def launches_in(trace: dict[str, Any]) -> int:
    """Return how many launches a profile in Chrome's format has."""
    kinds = ("kernel", "gpu_memcpy", "gpu_memset")
    return sum(event.get("cat") in kinds for event in trace["traceEvents"])


def bandwidth(device: torch.device, size: int, rounds: int) -> float:
    """Return the bytes per ms that a copy of ``size`` bytes reads and writes."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    copy = partial(torch.empty_like(source).copy_, source)
    return 2 * size / Stopwatch(device, rounds).medians({"copy": copy})["copy"]


def measure(
    case: Case, device: torch.device, rounds: int, compiler: Callable = torch.compile
) -> Result:
    """Time a case's contestants: sprout_fast, eager, compiled, and a copy of as many bytes."""
    calls = {"ours": case.ours, "eager": case.eager, "compiled": compiler(case.eager)}
    if case.bytes:
        source = torch.empty(-(-case.bytes // 2), dtype=torch.uint8, device=device)
        calls["copy"] = partial(torch.empty_like(source).copy_, source)
    replays = {name: replayed(call, device) for name, call in calls.items()}
    launched = {n for n, replay in replays.items() if replay is None and device.type == "cuda"}
    ms = Stopwatch(device, rounds).medians({n: replays[n] or call for n, call in calls.items()})
    return Result(case, ms, launched, count_launches(case.ours, device))


def gradients(loss: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, leaves)


def mixup_cases(batch: int, side: int, device: torch.device) -> Iterator[Case]:
    """Yield gaussian_mixup for two output dtypes, sample_mixup, and pgd_step_."""
    state = torch.tensor([1, 2, 0], device=device)
    images = torch.randint(256, (batch, 3, side, side), dtype=torch.uint8, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    partner, lam = sample_mixup(batch, state)
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (MEAN, STD))

    size = f"{batch}x3x{side}x{side}"
    for dtype in (torch.bfloat16, torch.float32):
        yield Case(
            f"gaussian_mixup, uint8 to {dtype}".replace("torch.", ""),
            size,
            images.numel() * (2 + dtype.itemsize),
            partial(gaussian_mixup, images, partner, lam, state, mean=MEAN, std=STD, dtype=dtype),
            partial(composites.gaussian_mixup, images, partner, lam, mean, std, dtype),
        )

    yield Case(
        "sample_mixup",
        str(batch),
        0,
        partial(sample_mixup, batch, state),
        partial(
            composites.sample_mixup,
            torch.arange(batch, device=device),
            torch.full((2,), 0.2, device=device),
        ),
    )

    x, grad = (torch.rand(images.shape, device=device) for _ in range(2))
    x_adv = x.clone()

    ball = dict(step=2 / 255, eps=8 / 255)
    yield Case(
        "pgd_step_",
        size,
        4 * x.nbytes,
        partial(pgd_step_, x_adv, grad, x, **ball),
        partial(composites.pgd_step_, x_adv, grad, x, **ball),
    )


def loss_cases(batch: int, classes: int, device: torch.device) -> Iterator[Case]:
    """Yield the losses with gradients, and the samplers."""
    state = torch.tensor([1, 2, 0], device=device)
    logits = torch.randn(batch, classes, device=device, requires_grad=True)
    labels = torch.randint(classes, (batch,), device=device)
    beta = torch.rand(classes, device=device, requires_grad=True)
    one_hot = F.one_hot(labels, classes).float()
    size = f"{batch}x{classes}"

    for beta_grad in ("expected", "implicit"):
        yield Case(
            f"sprout_loss, {beta_grad}, with gradients",
            size,
            3 * logits.nbytes,
            lambda beta_grad=beta_grad: gradients(
                sprout_loss(logits, labels, None, None, beta, state, beta_grad=beta_grad),
                logits,
                beta,
            ),
            lambda: gradients(composites.sprout_loss(logits, one_hot, beta), logits, beta),
        )
    target = torch.softmax(torch.randn(batch, classes, device=device), 1)
    yield Case(
        "generalized_cross_entropy, with gradient",
        size,
        5 * logits.nbytes,
        lambda: gradients(generalized_cross_entropy(logits, target), logits),
        lambda: gradients(F.cross_entropy(logits, target), logits),
    )
    a = (0.1 + torch.rand(batch, classes, device=device)).requires_grad_()
    grad = torch.randn(batch, classes, device=device)
    yield Case(
        "log_gamma",
        size,
        2 * a.nbytes,
        lambda: log_gamma(a.detach(), state),
        lambda: composites.log_gamma(a.detach()),
    )

    yield Case(
        "dirichlet, with gradient",
        size,
        6 * a.nbytes,
        lambda: torch.autograd.grad(dirichlet(a, state), a, grad),
        lambda: torch.autograd.grad(composites.dirichlet_distribution(a), a, grad),
    )


def training_results(sizes: Sizes, device: torch.device) -> Iterator[Result]:
    """Yield what SPROUT adds, and its step as ``ours`` against a natural one as ``eager``."""
    batch, side = sizes.step
    size = f"{batch}x3x{side}x{side}"
    trainee = build_trainee(sizes.arch, sizes.classes, image_size=side, amp="bf16", device=device)
    images, labels = next(synthetic_batches(trainee, batch))
    methods = build_methods(trainee, ["sprout", "natural"])

    def row(name: str, launches: int | None, **ms: float) -> Result:
        return Result(Case(name, size, 0, _nothing, _nothing), ms, launches=launches)

    steps = {n: partial(m.training_step, trainee.optimize) for n, m in methods.items()}
    for _ in range(3):  # cuDNN and the allocator settle
        for step in steps.values():
            step(images, labels)
    timed = {name: partial(step, images, labels) for name, step in steps.items()}
    launched = Stopwatch(device, sizes.step_rounds).medians(timed)
    counts = {name: count_launches(call, device) for name, call in timed.items()}
    seconds = measure_added(trainee, methods, images, labels, sizes.added_seconds)
    own = {name: 1e3 * min(turns) for name, turns in seconds.items()}
    parts = {n: own_part(trainee, m, images, labels) for n, m in methods.items()}
    counted = {name: count_launches(part, device) for name, part in parts.items()}
    yield row("sprout: mixer, loss and beta", counted["sprout"], ours=own["sprout"])
    yield row("natural: normalization, loss", counted["natural"], ours=own["natural"])
    both = (counted["sprout"], counted["natural"])
    more = None if both[0] is None or both[1] is None else both[0] - both[1]
    added = own["sprout"] - own["natural"]
    share = f"{added / launched['natural']:.3%} of a step"
    yield row(f"SPROUT adds, {share}", more, ours=added)
    what = f"{sizes.arch} step, bf16: sprout vs natural"
    yield row(what, counts["sprout"], ours=launched["sprout"], eager=launched["natural"])
    if trainee.capturable:  # last, since each graph has memory of its own
        graphs = {n: CapturedStep(m, trainee.optimize, trainee.world) for n, m in methods.items()}
        for step in graphs.values():
            for _ in range(step.warmup + 1):
                step(images, labels)
        calls = {name: partial(step, images, labels) for name, step in graphs.items()}
        ms = Stopwatch(device, sizes.step_rounds).medians(calls)
        yield row(f"{what}, graphs", None, ours=ms["sprout"], eager=ms["natural"])


def _nothing() -> None:
    """Stand in for the calls of a row that is timed elsewhere."""


def results(
    sizes: Sizes, device: torch.device, compiler: Callable = torch.compile
) -> Iterator[Result]:
    """Yield the results of all cases."""
    for batch, side in sizes.images:
        for case in mixup_cases(batch, side, device):
            yield measure(case, device, sizes.rounds, compiler)
    for batch, classes in sizes.rows:
        for case in loss_cases(batch, classes, device):
            yield measure(case, device, sizes.rounds, compiler)
    yield from training_results(sizes, device)


def table_of(found: list[Result], device: torch.device, bytes_per_ms: float) -> Table:
    """Return a table of the results: sprout_fast's times, and ratios to other contestants.

    ``bytes_per_ms`` is the :func:`bandwidth` that gives the memory floor.
    """
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    table = Table(
        title=f"{where}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}",
        caption="ms: median time of sprout_fast; eager, compiled: their time divided by it (for the"
        " step, eager is a natural one); / copy: it divided by the time of a copy of as many bytes;"
        f" floor: ms that its bytes need at {bytes_per_ms / 1e6:.0f} GB/s, as in a large copy;"
        " launches: kernels, copies and fills; *: launched, not captured into a graph",
        caption_justify="left",
        box=None,
    )
    table.add_column("op", no_wrap=True)
    for name in ("size", "ms", "eager", "compiled", "/ copy", "floor", "/ floor", "launches"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in found:
        ours, floor = result.ms["ours"], result.case.bytes / bytes_per_ms

        def cell(name: str, ratio: Callable[[float], float], result: Result = result) -> str:
            if name not in result.ms:
                return "-"
            return f"{ratio(result.ms[name]):.2f}{'*' if name in result.launched else ''}"

        table.add_row(
            result.case.name,
            result.case.size,
            f"{ours:.4f}{'*' if 'ours' in result.launched else ''}",
            cell("eager", lambda other, ours=ours: other / ours),
            cell("compiled", lambda other, ours=ours: other / ours),
            cell("copy", lambda copy, ours=ours: ours / copy),
            f"{floor:.4f}" if floor else "-",
            f"{ours / floor:.2f}" if floor else "-",
            "-" if result.launches is None else str(result.launches),
        )
    return table


def main(argv: list[str] | None = None) -> int:
    """Print the table and return the exit status, 1 without a GPU."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="use small sizes, to test the program")
    options = parser.parse_args(argv)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("gpu-check: torch finds no GPU", file=sys.stderr)
        return 1
    torch.manual_seed(0)
    found, sizes = [], TINY if options.tiny else Sizes()
    bytes_per_ms = bandwidth(device, sizes.copy, sizes.rounds)
    try:
        for result in results(sizes, device):
            found.append(result)
            print(f"{result.case.name} {result.case.size}: {result.ms['ours']:.4f} ms", flush=True)
    except torch.OutOfMemoryError as error:
        print(f"gpu-check: rows left out: {str(error).splitlines()[0]}", file=sys.stderr)
    Console(width=None if sys.stdout.isatty() else 150).print(table_of(found, device, bytes_per_ms))
    return 0


if __name__ == "__main__":
    sys.exit(main())
