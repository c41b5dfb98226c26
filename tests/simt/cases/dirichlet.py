"""Cases of dirichlet and its backward pass."""

from __future__ import annotations

import torch
from helpers.op_inputs import STATE

from simt.cases.common import assert_near, assert_same, case, compare_scaled, cpu, spread
from simt.harness import misaligned


def check_dirichlet(simt, a, state=STATE):
    z, log_total = simt.dirichlet(a, state)
    expected_z, expected_total = cpu.dirichlet(a, state)
    # z is the exponential of numbers up to 40.
    assert_near(z, expected_z, rtol=2e-5)
    assert_near(log_total, expected_total, rtol=2e-6)
    grad = torch.linspace(-1, 1, a.numel(), dtype=a.dtype).view(a.shape)
    actual = simt.dirichlet_backward(grad, a, z, log_total)
    # The implicit gradient is large at small concentrations and multiplies differences.
    compare_scaled([actual], [cpu.dirichlet_backward(grad, a, z, log_total)])
    return z, log_total, actual


@case(
    classes=[1, 2, 3, 4, 5, 31, 32, 33, 127, 128, 129, 2047, 2048, 2049, 9000],
    dtype=[torch.float32, torch.float64],
)
def dirichlet_classes(simt, classes, dtype):
    """K around the numbers of threads per row; the last has several packets per thread."""
    rows = 3 if classes < 100 else 1
    check_dirichlet(simt, spread((rows, classes), dtype, low=-1, high=1))
    check_dirichlet(simt, spread((rows, classes), dtype, low=-4, high=2))


@case(shape=[(0, 5), (3,), (2, 3, 7), (65, 3), (129, 2)])
def dirichlet_shapes(simt, shape):
    for first_row in (0, 1, 2, 3, 2**33 + 1, -1):
        state = torch.tensor([9, 2**32 + 5, first_row])
        a = spread(shape, low=-1, high=1) + 0.01
        aligned = check_dirichlet(simt, a, state)
        for x, y in zip(check_dirichlet(simt, misaligned(a), state), aligned, strict=True):
            assert_same(x, y)


@case(classes=[5, 300], dtype=[torch.float32, torch.float64])
def dirichlet_wrong_values(simt, classes, dtype):
    """Rows with an invalid concentration, or of zeros only, are NaN; others are unchanged."""
    a = spread((6, classes), dtype, low=-1, high=1) + 0.01
    invalid = a.clone()
    invalid[0, 1], invalid[1, 2], invalid[2, 3], invalid[3] = torch.nan, -1, torch.inf, 0
    z, log_total = simt.dirichlet(invalid, STATE)
    grad = simt.dirichlet_backward(torch.ones_like(a), invalid, z, log_total)
    for t in (z, log_total):
        assert t[:4].isnan().all()
    assert grad[:3].isnan().any(1).all() and grad[3].isnan().all()
    expected_z, expected_total = cpu.dirichlet(a, STATE)
    assert_near(z[4:], expected_z[4:], rtol=2e-5)
    assert_near(log_total[4:], expected_total[4:], rtol=2e-6)
