"""What the cases share: the registry of cases, comparisons, and inputs.

Tolerances. The CPU op and the kernel draw the same integers and do the same arithmetic, but in a
different order (sums over a row by vector lanes or by threads; mean and std folded into the weights
or not) and with or without FMA. That costs a few float32 ulps of the largest term: outputs of
gaussian_mixup reach 6 (ulp 4.8e-7), the cost of a row 20 (1.9e-6). Outputs of lower precision may
round a value next to a midpoint to either neighbor: one ulp of theirs. In float64 the different
orders leave 1e-12, where one wrong bit in a Philox word would show.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import torch

import sprout_fast  # noqa: F401 - registers torch.ops.sprout_fast
from simt.harness import Simt

cpu = torch.ops.sprout_fast
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
CASES: dict[str, Callable[[Simt], None]] = {}


def case(**sweeps):
    """Register a function once for each combination of its keyword arguments."""

    def register(function):
        for values in itertools.product(*sweeps.values()):
            options = dict(zip(sweeps, values, strict=True))
            words = [str(v).replace("torch.", "").replace(" ", "") for v in values]
            CASES["-".join([function.__name__, *words])] = functools.partial(function, **options)
        return function

    return register


def assert_near(actual, expected, atol=2e-6, rtol=1e-6):
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    ulp = {torch.float16: 2**-10, torch.bfloat16: 2**-7}.get(actual.dtype, 0.0)
    if actual.dtype == torch.float64:
        atol, rtol = 1e-6 * atol, 1e-6 * rtol
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=max(rtol, ulp), atol=atol, equal_nan=True
    )


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


def compare_scaled(actual, expected):
    """Like assert_near, relative to the largest entry of each tensor."""
    for got, want in zip(actual, expected, strict=True):
        finite = want[want.isfinite()].abs()
        size = max(1.0, finite.max().item()) if finite.numel() else 1.0
        assert_near(got, want, atol=4e-6 * size, rtol=1e-5)


def weights_of(loss):
    """Return a gradient for a loss of any reduction."""
    return torch.linspace(0.5, 2, max(loss.numel(), 1), dtype=loss.dtype)[: loss.numel()].view(
        loss.shape
    )


def spread(shape, dtype=torch.float32, low=-5.0, high=5.0):
    """Return concentrations, log-uniform between 10^low and 10^high, and a few zeros."""
    g = torch.Generator().manual_seed(torch.Size(shape).numel())
    a = 10 ** (low + (high - low) * torch.rand(shape, generator=g, dtype=torch.float64))
    return torch.where(torch.rand(shape, generator=g) < 0.05, 0, a).to(dtype)
