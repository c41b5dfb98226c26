"""Benchmark scaling with batch size, classes, image size and threads; the points of the plot."""

import pytest
import torch
from bench_dirichlet import dirichlet_case
from bench_gaussian_mixup import mixup_case
from bench_log_gamma import log_gamma_case
from bench_pgd_step import pgd_case
from bench_sprout_loss import loss_case
from harness import TINY, WITH_BACKWARD

BATCHES = [2, 3] if TINY else [1, 4, 16, 64, 256, 1024]
CLASSES = [4, 5] if TINY else [10, 100, 1000, 10_000, 100_000]
SIDES = [6, 8] if TINY else [32, 56, 112, 224, 448]
THREADED = {
    "gaussian_mixup": lambda: mixup_case(*((3, 8) if TINY else (64, 224)), setting="to float32"),
    "pgd_step_": lambda: pgd_case(*((3, 8) if TINY else (64, 224))),
    "log_gamma": lambda: log_gamma_case(*THREADED_ROWS, WITH_BACKWARD),
    "dirichlet": lambda: dirichlet_case(*THREADED_ROWS, WITH_BACKWARD),
    "sprout_loss": lambda: loss_case(*THREADED_ROWS, WITH_BACKWARD, "code"),
}
THREADED_ROWS = (3, 5) if TINY else (256, 1000)


def along(case, axis, value):
    """Make the case a point of the plot instead of a row of the table."""
    case.extra = {"axis": axis, "value": value}
    return case


@pytest.mark.parametrize("contestant", ["sprout_fast", "torch.distributions"])
@pytest.mark.parametrize("batch", BATCHES)
def test_batch(measure, contestant, batch):
    case = loss_case(batch, CLASSES[-1] if TINY else 1000, WITH_BACKWARD, "paper")
    measure(along(case, "batch", batch), contestant)


@pytest.mark.parametrize("contestant", ["sprout_fast", "torch.distributions"])
@pytest.mark.parametrize("op", ["sprout_loss", "dirichlet"])
@pytest.mark.parametrize("classes", CLASSES)
def test_classes(measure, contestant, op, classes):
    if op == "sprout_loss":
        case = loss_case(16, classes, WITH_BACKWARD, "paper")
    else:
        case = dirichlet_case(16, classes, WITH_BACKWARD)
    measure(along(case, "classes", classes), contestant)


@pytest.mark.parametrize("contestant", ["sprout_fast", "eager"])
@pytest.mark.parametrize("side", SIDES)
def test_side(measure, contestant, side):
    case = mixup_case(2 if TINY else 16, side, setting="to float32")
    measure(along(case, "side", side), contestant)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("op", THREADED)
def test_threads(measure, op, threads):
    torch.manual_seed(0)  # the same inputs for both numbers of threads
    memory = "warm" if op == "gaussian_mixup" else "glibc"
    measure(
        along(THREADED[op](), "threads", threads), "sprout_fast", memory=memory, threads=threads
    )
