"""The source of the CUDA kernels, executed on the CPU.

Kernels are compared with the CPU ops and run with shuffled orders of threads. `make test-long` also
runs them under AddressSanitizer and UBSan, and shows with planted mistakes that each of these
checks detects them.

tests/simt/cuda_on_cpu.h describes the execution, tests/simt/cases the cases and their tolerances.
"""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.op_inputs import channel_options, mixing, random_images

from simt import build
from simt.build import Mistake
from simt.cases import CASES, everything
from simt.cases.pgd_step import attack_inputs
from simt.harness import Simt

TESTS = Path(__file__).parent

pytestmark = pytest.mark.skipif(
    build.cuda_include() is None, reason="no cuda_fp16.h: neither nvcc nor nvidia-cuda-runtime"
)

TYPES, REDUCE = "common/device_types.h", "common/reduce.h"
LOSS, MIXUP = "ops/cuda/sprout_loss_kernel.cuh", "ops/cuda/gaussian_mixup_kernel.cuh"
CROSS_ENTROPY = "ops/cuda/generalized_cross_entropy_kernel.cuh"
SAMPLE = "ops/cuda/sample_mixup_kernel.cuh"


def without_barrier(op, file, before, after=""):
    return Mistake(op, file, f"{before}__syncthreads();{after}", f"{before}{{}}{after}")


UNWRITTEN = "reads shared memory that no thread|data race: reads shared memory"

# For each planted mistake: the mistake, a case that triggers it, and the expected report.
REPORTED = {
    "no barrier before the reduction's second stage, sprout_loss": (
        without_barrier("sprout_loss", REDUCE, "/ 32] = v;\n  "),
        "loss_classes-257-paper-float32",
        UNWRITTEN,
    ),
    "the same, dirichlet": (
        without_barrier("dirichlet", REDUCE, "/ 32] = v;\n  "),
        "dirichlet_classes-2047-float32",
        UNWRITTEN,
    ),
    "the same, generalized_cross_entropy": (
        without_barrier("generalized_cross_entropy", REDUCE, "/ 32] = v;\n  "),
        "cross_entropy_classes-1023-None",
        UNWRITTEN,
    ),
    "the same, sum of the losses": (
        without_barrier("reduction", REDUCE, "/ 32] = v;\n  "),
        "cross_entropy_batches-64-None-mean-0.0",
        UNWRITTEN,
    ),
    "no barrier between writing and reading kept rows": (
        without_barrier("sprout_loss", LOSS, "  ", "  // before threads read values"),
        "loss_classes-33-paper-float32",
        UNWRITTEN,
    ),
    "no barrier between gradients of rows and their sum": (
        without_barrier("sprout_loss", LOSS, "  ", "  // before the gradients of rows"),
        "loss_classes-33-paper-float32",
        "data race: reads shared memory",
    ),
    "no barrier between rows whose classes belong to other threads": (
        without_barrier(
            "sprout_loss", LOSS, "if constexpr (kSumsBeta) ", "  // the thread of a class"
        ),
        "loss_classes-1023-paper-float32",
        UNWRITTEN,
    ),
    "no barrier before the sums of the teams are added": (
        without_barrier("sprout_loss", LOSS, "    ", "  // before the sums of the teams"),
        "loss_classes-33-paper-float32",
        "data race: reads shared memory",
    ),
    "no barrier before the state advances": (
        without_barrier("sample_mixup", SAMPLE, "  ", "  // before the state that others"),
        "sample_mixup_in_place-257-True",
        "data race: (reads|writes) global memory",
    ),
    "hits of several rows added without an atomic": (
        Mistake(
            "meter_step",
            "ops/cuda/meter_step_kernel.cuh",
            "atomicAdd(reinterpret_cast<unsigned long long*>(args.hits), hit)",
            "*reinterpret_cast<unsigned long long*>(args.hits) += hit",
        ),
        "meter-65-10-float32",
        "data race: (reads|writes) global memory",
    ),
    "no barrier in the sum over groups": (
        without_barrier("sprout_loss", LOSS, "[threadIdx.x] = sum;\n  "),
        "loss_classes-33-paper-float32",
        UNWRITTEN,
    ),
    "no barrier after the map of channels": (
        without_barrier("gaussian_mixup", MIXUP, "map[i] = channel;\n  }\n  "),
        "mixup_layouts-channels_last-marginal-(2,4,8,8)",
        UNWRITTEN,
    ),
    "the same, for images of any layout": (
        without_barrier("gaussian_mixup", MIXUP, "  ", "  // before threads read the map"),
        "mixup_layouts-contiguous-marginal-(2,4,8,8)",
        UNWRITTEN,
    ),
    "no barrier between staging and storing a tile": (
        Mistake(
            "gaussian_mixup", MIXUP, "__syncwarp();  // before the warp", "{}  // before the warp"
        ),
        "mixup_layouts-contiguous-marginal-(2,3,40,41)",
        UNWRITTEN,
    ),
    "no barrier after a staged tile": (
        Mistake(
            "gaussian_mixup", MIXUP, "__syncwarp();  // before the next", "{}  // before the next"
        ),
        "mixup_other_grids-contiguous-3-float32",
        "data race: (writes|reads) shared memory",
    ),
    "no barrier between writing and reading the matches of a tile": (
        Mistake("gaussian_mixup", MIXUP, "__syncthreads_or(match)", "true"),
        "mixup_backward_batches-257-True",
        UNWRITTEN,
    ),
    "no barrier after the tile of partners": (
        without_barrier("gaussian_mixup", MIXUP, "  ", "  // before the matches of the next"),
        "mixup_backward_batches-257-True",
        "data race: writes shared memory",
    ),
    "a barrier that only some threads reach": (
        Mistake(
            "sprout_loss",
            LOSS,
            "  sums = row_reduce",
            "  if (threadIdx.x < 32) __syncthreads();\n  sums = row_reduce",
        ),
        "loss_classes-257-paper-float32",
        "threads are at different barriers",
    ),
    "a shuffle without all lanes of its mask": (
        Mistake("sprout_loss", LOSS, "largest = row_", "if (threadIdx.x != 3) largest = row_"),
        "loss_classes-33-paper-float32",
        "lanes are at different warp operations|names lane 3, which waits at __shfl",
    ),
    "a mask without its caller": (
        Mistake(
            "sprout_loss",
            LOSS,
            "return {__shfl_xor_sync(0xffffffffu",
            "return {__shfl_xor_sync(0x7fffffffu",
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
    "an image at a misaligned address": (
        Mistake(
            "gaussian_mixup",
            MIXUP,
            "&& is_aligned(args.images) &&\n         is_aligned(args.out)",
            "",
        ),
        "mixup_layouts-misaligned-marginal-(2,4,8,8)",
        "misaligned address",
    ),
    "planes at a misaligned address": (
        Mistake("gaussian_mixup", MIXUP, "(args.images) % kAlignment == 0", "(args.images) >= 0"),
        "mixup_layouts-misaligned_planes-marginal-(2,3,40,41)",
        "misaligned address",
    ),
    "a word that ends behind the image": (
        Mistake("gaussian_mixup", MIXUP, "at - offset + 8 <= count", "at - offset <= count"),
        "mixup_layouts-contiguous-marginal-(5,3,7,9)",
        "heap-buffer-overflow",
    ),
    "a whole word of a tile that ends behind the image": (
        Mistake("gaussian_mixup", MIXUP, "at + N <= elements", "at <= elements"),
        "mixup_first_rows-0-float32",
        "heap-buffer-overflow",
    ),
    "a packet at a misaligned address": (
        Mistake(
            "pgd_step",
            TYPES,
            "&& Packet<E, N>::is_aligned(p + k)) {\n    Packet",
            ") {\n    Packet",
        ),
        "pgd_step_misaligned-(0,)",
        "misaligned address",
    ),
    "one element too many read": (
        Mistake("dirichlet", TYPES, "k + j < end ? load_as", "k + j <= end ? load_as"),
        "dirichlet_classes-5-float32",
        "heap-buffer-overflow",
    ),
    "one element too many written": (
        Mistake("log_gamma", TYPES, "k + j < end) p[k + j]", "k + j <= end) p[k + j]"),
        "log_gamma_sizes-5-float32",
        "heap-buffer-overflow",
    ),
    "one row too many read": (
        Mistake("generalized_cross_entropy", CROSS_ENTROPY, "if (row >= args", "if (row > args"),
        "cross_entropy_batches-65-float32-mean-0.1",
        "heap-buffer-overflow",
    ),
    "a label equal to the number of classes": (
        Mistake("sprout_loss", LOSS, "label < args.classes &&", "label <= args.classes &&"),
        "loss_wrong_values-5-sample-implicit",
        "heap-buffer-overflow",
    ),
    "shared memory for half the warps": (
        Mistake("sprout_loss", LOSS, "RowSums<T> shared[kLossThreads / 32", "RowSums<T> shared[8"),
        "loss_classes-1000-paper-float32",
        "insufficient space|global-buffer-overflow",
    ),
    "dynamic shared memory for one row too few": (
        Mistake("sprout_loss", LOSS, "= least * packets", "= (least - 1) * packets"),
        "loss_batches-64-mean",
        "heap-buffer-overflow",
    ),
}
PLANTED = REPORTED | OUT_OF_BOUNDS


@pytest.fixture(scope="session")
def modules():
    """Return the builds that run in processes of their own, compiled in parallel."""
    wanted = {"sanitized": ("sanitized", None)}
    wanted |= {name: ("checked", mistake) for name, (mistake, *_) in REPORTED.items()}
    wanted |= {name: ("sanitized", mistake) for name, (mistake, *_) in OUT_OF_BOUNDS.items()}
    return dict(zip(wanted, build.build(list(wanted.values())), strict=True))


@pytest.fixture(scope="session")
def jobs(modules, tmp_path_factory):
    """Start what needs a separate process; return a function that waits for its results."""
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
            cwd=TESTS.parent,
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
def simt():
    return Simt(build.build([("checked", None)])[0])


@pytest.mark.parametrize("name", CASES)
def test_equals_cpu_op(simt, name):
    CASES[name](simt)


def test_does_not_depend_on_the_order_of_threads(simt):
    first = everything(simt, seed=0)
    for seed in range(1, 22):
        for a, b in zip(first, everything(simt, seed), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_every_kernel_is_executed(simt):
    """`everything`, with which orders of threads are compared, launches every kernel."""
    kernels = Path(build.ROOT, "csrc/ops/cuda").glob("*_kernel.cuh")
    written = {
        name
        for file in kernels
        for name in re.findall(
            r"__global__ void (?:__launch_bounds__\([^)]*\)\s*)?(\w+)\(", file.read_text()
        )
    }
    simt.module.take_launched()
    everything(simt, seed=0)
    launched = {re.search(r"kernel = .*?(\w+_kernel)\b", n)[1] for n in simt.module.take_launched()}
    assert launched == written


@pytest.mark.parametrize(
    "shape, blocks",
    [
        ((128, 3, 32, 32), (3, 128)),  # 16 elements per thread
        ((32, 3, 224, 224), (74, 32)),  # twice as many
        ((256, 3, 224, 224), (19, 256)),  # eight times as many
        ((1, 3, 2, 2), (1, 1)),
    ],
)
def test_small_batches_fill_the_chip(simt, shape, blocks):
    """As many blocks as are resident, if there are as many threads of a few elements."""
    assert simt.gaussian_mixup_blocks(shape, multiprocessors=132) == blocks


def sectors_of(simt, run):
    """Return {"loads": (touched, needed), "stores": ...} sectors of what ``run`` launches."""
    simt.module.start_traffic()
    run()
    return simt.module.take_traffic()


def mixup_sectors(simt, shape, memory_format, image_dtype, dtype):
    state = torch.tensor([1, 2, 8 * 3])  # of the fourth of ranks with eight images
    x = random_images(shape, image_dtype).contiguous(memory_format=memory_format)
    options = channel_options(shape[1])
    mix = functools.partial(simt.gaussian_mixup, x, *mixing(shape[0]), state, **options)
    return sectors_of(simt, functools.partial(mix, dtype=dtype))


FORMATS = torch.channels_last, torch.contiguous_format


@pytest.mark.parametrize("memory_format", FORMATS, ids=["channels_last", "planes"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("image_dtype", [torch.uint8, torch.bfloat16, torch.float32])
def test_requests_fill_sectors(simt, image_dtype, dtype, memory_format):
    """What tools/kernel_report derives from the machine code, counted while kernels run."""
    traffic = mixup_sectors(simt, (2, 3, 32, 48), memory_format, image_dtype, dtype)
    for touched, needed in traffic.values():
        assert touched == needed > 0


@pytest.mark.parametrize("memory_format", FORMATS, ids=["channels_last", "planes"])
def test_stores_of_odd_images_fill_sectors(simt, memory_format):
    """But for the ends of images."""
    shape = (2, 3, 63, 65)
    traffic = mixup_sectors(simt, shape, memory_format, torch.uint8, torch.bfloat16)
    touched, needed = traffic["stores"]
    assert needed <= touched < 1.1 * needed


def test_other_stores_fill_sectors(simt):
    grad = random_images((2, 3, 32, 32), torch.float32)
    mixup = functools.partial(simt.gaussian_mixup_backward, grad, *mixing(2), std=[1.0] * 3)
    attack = functools.partial(simt.pgd_step_, *attack_inputs((4096,)), step=0.01, eps=0.03)
    for run in (functools.partial(mixup, dtype=torch.float32), attack):
        touched, needed = sectors_of(simt, run)["stores"]
        assert touched == needed > 0


def test_half_filled_sectors_are_counted(simt):
    """A thread's four neighboring doubles are stored 16 bytes at a time, 32 bytes apart."""
    shape = (1, 3, 32, 32)
    traffic = mixup_sectors(simt, shape, torch.channels_last, torch.uint8, torch.float64)
    assert traffic["stores"][0] == 2 * traffic["stores"][1]


@pytest.mark.long
def test_sanitizers_find_nothing(jobs):
    assert jobs("sanitized")["status"] == 0, jobs("sanitized")["output"]


def test_every_barrier_is_removed_once():
    """Each barrier is removed by a planted mistake; those of reductions, in every op with one."""
    barrier = re.compile(r"__sync(threads|warp)")
    mistakes = [mistake for mistake, *_ in REPORTED.values()]
    csrc = Path(build.ROOT, "csrc")
    for file in [*csrc.rglob("*.cuh"), *csrc.rglob("*.h")]:
        text, name = file.read_text(), str(file.relative_to(csrc))
        for mistake in mistakes:
            if mistake.file == name and not barrier.search(mistake.new):
                text = text.replace(mistake.old, mistake.new)
        assert not barrier.search(text), name
    kernels = Path(csrc, "ops", "cuda").glob("*_kernel.cuh")
    reducing = {f.stem.removesuffix("_kernel") for f in kernels if "row_reduce(" in f.read_text()}
    assert {mistake.op for mistake in mistakes if mistake.file == REDUCE} == reducing


@pytest.mark.long
@pytest.mark.parametrize("name", PLANTED)
def test_planted_mistake_is_detected(jobs, name):
    assert jobs(name)["status"] != 0
    assert re.search(PLANTED[name][2], jobs(name)["output"]), jobs(name)["output"]
