"""Benchmark pgd_step_ against PyTorch's operations: a step of 2/255 in a ball of 8/255."""

import composites
import pytest
import torch
from harness import FORWARD, IMAGES, Case

from sprout_fast import pgd_step_


def pgd_case(batch, side) -> Case:
    x, grad = torch.rand(batch, 3, side, side), torch.randn(batch, 3, side, side)
    return Case(
        "pgd_step_",
        f"{batch}×3×{side}×{side}",
        FORWARD,
        4 * x.nbytes,
        {
            "sprout_fast": lambda x_adv, grad, x, step, eps: pgd_step_(
                x_adv, grad, x, step=step, eps=eps
            ),
            "eager": composites.pgd_step_,
        },
        (x.clone(), grad, x, 2 / 255, 8 / 255),
    )


@pytest.mark.parametrize("contestant", ["sprout_fast", "eager", "compiled", "memcpy"])
@pytest.mark.parametrize("batch, side", IMAGES)
def test_pgd_step(measure, contestant, batch, side):
    measure(pgd_case(batch, side), contestant)
