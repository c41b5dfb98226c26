"""Benchmark generalized_cross_entropy against F.cross_entropy, for both kinds of targets."""

import pytest
import torch
import torch.nn.functional as F
from harness import FORWARD, ROWS, WITH_BACKWARD, Case

from sprout_fast import generalized_cross_entropy


@pytest.mark.parametrize("contestant", ["sprout_fast", "eager", "compiled", "memcpy"])
@pytest.mark.parametrize("target", ["class indices", "probabilities"])
@pytest.mark.parametrize("what", [FORWARD, WITH_BACKWARD])
@pytest.mark.parametrize("batch, classes", ROWS)
def test_generalized_cross_entropy(measure, contestant, what, target, batch, classes):
    logits = torch.randn(batch, classes, requires_grad=True)
    if target == "probabilities":
        y = torch.softmax(torch.randn(batch, classes), 1)
        reads = logits.nbytes + y.nbytes
    else:
        y, reads = torch.randint(classes, (batch,)), logits.nbytes
    case = Case(
        "generalized_cross_entropy",
        f"{batch}×{classes}",
        what,
        reads if what == FORWARD else 2 * reads + logits.nbytes,
        {"sprout_fast": generalized_cross_entropy, "eager": F.cross_entropy},
        (logits, y),
        leaves=(logits,),
        setting=target,
    )
    measure(case, contestant)
