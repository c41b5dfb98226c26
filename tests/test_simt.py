"""The CUDA kernels' own source, executed on the CPU: against the CPU ops, in shuffled orders of
threads, under AddressSanitizer and UBSan; and proof that all of that catches mistakes.

tests/simt/cuda_on_cpu.h says how; tests/simt/cases.py has the cases and states their tolerances.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from simt import build
from simt.build import Mistake
from simt.cases import CASES, everything
from simt.harness import Simt

TESTS = Path(__file__).parent

pytestmark = pytest.mark.skipif(
    build.cuda_include() is None, reason="no cuda_fp16.h: neither nvcc nor nvidia-cuda-runtime"
)

REDUCE, LOSS = "common/reduce.h", "ops/cuda/sprout_loss_kernel.cuh"
MIXUP = "ops/cuda/gaussian_mixup_kernel.cuh"

# What is planted, a case that runs into it, the report.
REPORTED = {
    "no barrier before the reduction's second stage": (
        Mistake(
            "sprout_loss", REDUCE, "shared[warp] = v;\n  __syncthreads();", "shared[warp] = v;"
        ),
        "loss_classes-257-paper-float32",
        "reads shared memory that no thread|data race: reads shared memory",
    ),
    # Seen only where a row with a wrong label skips the other barriers between two reductions.
    "no barrier behind the reduction": (
        Mistake("sprout_loss", REDUCE, "  __syncthreads();  // before", "  // before"),
        "loss_wrong_values-300-dirichlet-implicit",
        "data race: writes shared memory",
    ),
    "no barrier behind the partners' tile": (
        Mistake("gaussian_mixup", MIXUP, "  __syncthreads();  // before", "  // before"),
        "mixup_backward_batches-257-True",
        "data race: writes shared memory",
    ),
    "a barrier that only some threads reach": (
        Mistake(
            "sprout_loss",
            LOSS,
            "    sums = block_reduce",
            "    if (threadIdx.x < 32) __syncthreads();\n    sums = block_reduce",
        ),
        "loss_classes-257-paper-float32",
        "threads are at different barriers",
    ),
    "a shuffle without all lanes of its mask": (
        Mistake("sprout_loss", LOSS, "if (threadIdx.x < 32) {", "if (threadIdx.x < 31) {"),
        "loss_classes-33-paper-float32",
        "lanes are at different warp operations|names lane 31, which waits at __shfl",
    ),
    "a mask without its caller": (
        Mistake(
            "sprout_loss",
            LOSS,
            "__shfl_sync(0xffffffffu, largest, 0)",
            "__shfl_sync(0x7fffffffu, largest, 0)",
        ),
        "loss_classes-33-paper-float32",
        "has a mask without the caller",
    ),
    "two threads that write one output": (
        Mistake(
            "sprout_loss", LOSS, "grad_beta[k] = static_cast", "grad_beta[k / 2] = static_cast"
        ),
        "loss_classes-33-paper-float32",
        "data race: writes global memory",
    ),
}
OUT_OF_BOUNDS = {
    "one element too many of an image": (
        Mistake(
            "gaussian_mixup",
            MIXUP,
            "if (first + j >= elements) return",
            "if (first + j > elements) return",
        ),
        "mixup_layouts-contiguous-marginal-(2,1,1,1)",
        "heap-buffer-overflow",
    ),
    "a packet at a misaligned address": (
        Mistake("gaussian_mixup", MIXUP, "is_aligned(args.images) && is_aligned(args.out)", "true"),
        "mixup_layouts-misaligned-marginal-(2,4,8,8)",
        "misaligned address",
    ),
    "one class too many": (
        Mistake("sprout_loss", LOSS, "k < args.classes; k +=", "k <= args.classes; k +="),
        "loss_classes-257-paper-float32",
        "heap-buffer-overflow",
    ),
    "a label equal to the number of classes": (
        Mistake("sprout_loss", LOSS, "label < args.classes &&", "label <= args.classes &&"),
        "loss_wrong_values-5-dirichlet-implicit",
        "heap-buffer-overflow",
    ),
    "shared memory for one warp too few": (
        Mistake("sprout_loss", LOSS, "shared[kWarps];", "shared[kWarps - (kWarps > 1)];"),
        "loss_classes-257-paper-float32",
        "insufficient space",
    ),
}
PLANTED = REPORTED | OUT_OF_BOUNDS


@pytest.fixture(scope="session")
def modules():
    """All builds at once, so that every processor compiles."""
    wanted = {"checked": ("checked", None), "sanitized": ("sanitized", None)}
    wanted |= {name: ("checked", mistake) for name, (mistake, *_) in REPORTED.items()}
    wanted |= {name: ("sanitized", mistake) for name, (mistake, *_) in OUT_OF_BOUNDS.items()}
    return dict(zip(wanted, build.build(list(wanted.values())), strict=True))


@pytest.fixture(scope="session")
def jobs(modules, tmp_path_factory):
    """All that needs a process of its own, begun before this process's tests and read after."""
    wanted = {"sanitized": {"module": str(modules["sanitized"]), "cases": list(CASES)}}
    wanted |= {n: {"module": str(modules[n]), "cases": [c]} for n, (_, c, _) in PLANTED.items()}
    folder = tmp_path_factory.mktemp("simt")
    (folder / "jobs").write_text(json.dumps(list(wanted.values())))
    with open(folder / "jobs") as stdin, open(folder / "results", "w") as stdout:
        process = subprocess.Popen(
            [sys.executable, "-m", "simt.jobs"],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            cwd=TESTS,
            env=os.environ | build.sanitizer_environment(),
        )
    results = {}

    def result(name):
        if not results:
            _, errors = process.communicate()
            assert process.returncode == 0, errors
            lines = (folder / "results").read_text().splitlines()
            results.update(zip(wanted, map(json.loads, lines), strict=True))
        return results[name]

    yield result
    process.kill()


@pytest.fixture(scope="session")
def simt(modules, jobs):
    return Simt(modules["checked"])


@pytest.mark.parametrize("name", CASES)
def test_equals_cpu_op(simt, name):
    CASES[name](simt)


def test_thread_order_does_not_matter(simt):
    first = everything(simt, seed=0)
    for seed in range(1, 22):
        for a, b in zip(first, everything(simt, seed), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_sanitizers_find_nothing(jobs):
    assert jobs("sanitized")["status"] == 0, jobs("sanitized")["output"]


@pytest.mark.parametrize("name", PLANTED)
def test_planted_mistake_is_found(jobs, name):
    assert jobs(name)["status"] != 0
    assert re.search(PLANTED[name][2], jobs(name)["output"]), jobs(name)["output"]
