"""Peak memory of sprout_loss: no matrix of labels, in forward or in backward.

Run as a program, with tests/ops/heap_peak.cpp preloaded, this file prints its measurements.
"""

import ctypes
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sprout_fast import sprout_loss

SHAPES = [(256, 1000), (64, 100_000)]
CASES = list(
    itertools.product(SHAPES, ("float32", "bfloat16"), ("implicit", "expected", "none"), (1, 2))
)


def peak(heap, shape, dtype, beta_grad, threads, label_matrix=False):
    """Return the peak memory, including logits and their gradient, relative to the logits."""
    torch.set_num_threads(threads)
    batch, classes = shape
    g = torch.Generator().manual_seed(0)
    source = torch.randn(shape, generator=g).to(getattr(torch, dtype))
    labels = torch.randint(classes, (2, batch), generator=g)
    beta = (10 / classes * torch.rand(classes, generator=g)).requires_grad_(beta_grad != "none")
    lam, state = torch.rand(1, generator=g), torch.tensor([0, 0, 0])
    heap.heap_peak()
    logits = source.clone().requires_grad_()
    loss = sprout_loss(logits, labels[0], labels[1], lam, beta, state, beta_grad=beta_grad)
    matrix = torch.zeros(shape) if label_matrix else None
    loss.backward()
    bytes_used = heap.heap_peak()
    del matrix
    return bytes_used / source.nbytes


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    library = tmp_path_factory.mktemp("heap") / "heap_peak.so"
    source = Path(__file__).with_name("heap_peak.cpp")
    cxx = os.environ.get("CXX", "g++")
    subprocess.run([cxx, "-O2", "-shared", "-fPIC", source, "-o", library], check=True)
    done = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_at_most_two_and_a_half_times_the_logits(measured):
    assert len(measured["peaks"]) == len(CASES)
    for (shape, dtype, *rest), ratio in measured["peaks"]:
        assert 2 <= ratio <= 2.5, (shape, dtype, *rest, ratio)


def test_detects_a_label_matrix(measured):
    assert all(ratio > 2.9 for ratio in measured["with a float32 matrix"])


if __name__ == "__main__":
    heap = ctypes.CDLL(None)
    heap.heap_peak.restype = ctypes.c_long
    peak(heap, *CASES[1])  # warm-up: threads and one-time allocations of torch
    peaks = [(case, peak(heap, *case)) for case in CASES]
    matrix = [peak(heap, shape, "bfloat16", "none", 2, label_matrix=True) for shape in SHAPES]
    print(json.dumps({"peaks": peaks, "with a float32 matrix": matrix}))
