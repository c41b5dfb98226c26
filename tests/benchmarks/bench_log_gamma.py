"""Benchmark log_gamma against the logarithm of PyTorch's gamma variates."""

import composites
import pytest
import torch
from harness import FORWARD, ROWS, STATES, WITH_BACKWARD, Case

from sprout_fast import log_gamma


def log_gamma_case(batch, classes, what) -> Case:
    a = (0.1 + torch.rand(batch, classes)).requires_grad_()
    functions = {
        "sprout_fast": lambda a: log_gamma(a, next(STATES)),
        "eager": composites.log_gamma,
        "torch.distributions": composites.log_gamma_distribution,
    }
    moved = (2 if what == FORWARD else 6) * a.nbytes
    return Case("log_gamma", f"{batch}×{classes}", what, moved, functions, (a,), (a,))


@pytest.mark.parametrize(
    "contestant", ["sprout_fast", "eager", "compiled", "torch.distributions", "memcpy"]
)
@pytest.mark.parametrize("what", [FORWARD, WITH_BACKWARD])
@pytest.mark.parametrize("batch, classes", ROWS)
def test_log_gamma(measure, contestant, what, batch, classes):
    measure(log_gamma_case(batch, classes, what), contestant)
