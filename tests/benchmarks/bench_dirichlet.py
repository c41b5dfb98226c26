"""Benchmark dirichlet against normalized gamma variates of PyTorch and torch.distributions."""

import composites
import pytest
import torch
from harness import FORWARD, ROWS, STATES, WITH_BACKWARD, Case

from sprout_fast import dirichlet


def dirichlet_case(batch, classes, what) -> Case:
    a = (0.1 + torch.rand(batch, classes)).requires_grad_()
    functions = {
        "sprout_fast": lambda a: dirichlet(a, next(STATES)),
        "eager": composites.dirichlet,
        "torch.distributions": composites.dirichlet_distribution,
    }
    moved = (2 if what == FORWARD else 6) * a.nbytes
    return Case("dirichlet", f"{batch}×{classes}", what, moved, functions, (a,), (a,))


@pytest.mark.parametrize(
    "contestant", ["sprout_fast", "eager", "compiled", "torch.distributions", "memcpy"]
)
@pytest.mark.parametrize("what", [FORWARD, WITH_BACKWARD])
@pytest.mark.parametrize("batch, classes", ROWS)
def test_dirichlet(measure, contestant, what, batch, classes):
    measure(dirichlet_case(batch, classes, what), contestant)
