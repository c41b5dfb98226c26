"""Cases of pgd_step_."""

from __future__ import annotations

import torch
from helpers.op_inputs import strided

from simt.cases.common import FLOATS, assert_same, case, cpu
from simt.harness import misaligned


def attack_inputs(shape, dtype=torch.float32, grad_dtype=torch.float32):
    g = torch.Generator().manual_seed(torch.Size(shape).numel())
    x = torch.rand(shape, generator=g, dtype=torch.float64).to(dtype)
    x_adv = (x + 0.06 * torch.rand(shape, generator=g, dtype=torch.float64) - 0.03).to(dtype)
    grad = torch.randn(shape, generator=g, dtype=torch.float64).to(grad_dtype)
    return x_adv, torch.where(torch.rand(shape, generator=g) < 0.1, 0, grad), x


def check_pgd_step(simt, x_adv, grad, x, eps=8 / 255, upper=1.0):
    expected = x_adv.clone(memory_format=torch.preserve_format)
    cpu.pgd_step_(expected, grad, x, 2 / 255, eps, 0.0, upper)
    simt.pgd_step_(x_adv, grad, x, step=2 / 255, eps=eps, upper=upper)
    assert_same(x_adv, expected)  # no sums or series: bit for bit


@case(dtype=[torch.float32, torch.float64], grad_dtype=FLOATS)
def pgd_step_dtypes(simt, dtype, grad_dtype):
    for numel in (0, 1, 7, 8, 9, 2047, 2048, 2049):
        check_pgd_step(simt, *attack_inputs((numel,), dtype, grad_dtype))


@case(which=[(0,), (1,), (2,), (0, 1, 2)])
def pgd_step_misaligned(simt, which):
    inputs = attack_inputs((3, 5, 7), grad_dtype=torch.bfloat16)
    check_pgd_step(simt, *(misaligned(t) if i in which else t for i, t in enumerate(inputs)))


@case(dtype=[torch.float32, torch.float64])
def pgd_step_strides(simt, dtype):
    """Different layouts, a transposed x_adv, a broadcast gradient."""
    x_adv, grad, x = attack_inputs((3, 4, 5, 6), dtype)
    check_pgd_step(simt, x_adv.contiguous(memory_format=torch.channels_last), grad, x)
    check_pgd_step(simt, strided(x_adv), grad, strided(x))
    check_pgd_step(simt, x_adv.mT, grad[:1, :1].mT.expand_as(x_adv.mT), x.mT)
    twelve = [t.reshape([2, 1] * 5 + [3, 2])[..., ::2] for t in attack_inputs((192,), dtype)]
    check_pgd_step(simt, *twelve)


@case(value=[torch.nan, torch.inf, -torch.inf], which=[0, 1, 2])
def pgd_step_odd_values(simt, value, which):
    inputs = attack_inputs((33,))
    inputs[which][::5] = value
    check_pgd_step(simt, *inputs)
    check_pgd_step(simt, *inputs, eps=0.0, upper=torch.inf)
