"""Cases of log_gamma and its backward pass."""

from __future__ import annotations

import torch
from helpers.op_inputs import STATE

from simt.cases.common import assert_near, assert_same, case, cpu, spread
from simt.harness import misaligned


def check_log_gamma(simt, a, state=STATE):
    log_g = simt.log_gamma(a, state)
    assert_near(log_g, cpu.log_gamma(a, state), rtol=2e-6)
    grad = torch.linspace(-1, 1, a.numel(), dtype=a.dtype).view(a.shape)
    actual = simt.log_gamma_backward(grad, a, log_g)
    assert_near(actual, cpu.log_gamma_backward(grad, a, log_g), rtol=1e-5)
    return log_g, actual


@case(numel=[0, 1, 3, 4, 5, 511, 512, 513], dtype=[torch.float32, torch.float64])
def log_gamma_sizes(simt, numel, dtype):
    """Sizes around packets and blocks, from every index in a Philox group."""
    for first_row in (0, 1, 2, 3, 2**33 + 1, -1):
        check_log_gamma(simt, spread((numel,), dtype), torch.tensor([9, 2**32 + 5, first_row]))


@case(dtype=[torch.float32, torch.float64])
def log_gamma_layouts(simt, dtype):
    a = spread((5, 7, 3), dtype)
    aligned = check_log_gamma(simt, a)
    for x, y in zip(check_log_gamma(simt, misaligned(a)), aligned, strict=True):
        assert_same(x, y)


@case(dtype=[torch.float32, torch.float64])
def log_gamma_wrong_values(simt, dtype):
    """Invalid concentrations give NaN and leave their neighbors unchanged."""
    a = spread((64,), dtype, low=-2, high=2)
    invalid = a.clone()
    invalid[[1, 6, 11, 16]] = torch.tensor([torch.nan, -1.0, torch.inf, -torch.inf], dtype=dtype)
    log_g = simt.log_gamma(invalid, STATE)
    gradient = simt.log_gamma_backward(torch.ones_like(a), invalid, log_g)
    expected = cpu.log_gamma(a, STATE)
    expected_gradient = cpu.log_gamma_backward(torch.ones_like(a), a, expected)
    expected[[1, 6, 11, 16]] = expected_gradient[[1, 6, 11, 16]] = torch.nan
    assert_near(log_g, expected, rtol=2e-6)
    assert_near(gradient, expected_gradient, rtol=1e-5)
