"""Benchmark sample_mixup against PyTorch; it draws few numbers, so this times call overhead."""

import composites
import pytest
import torch
from harness import FORWARD, IMAGES, STATES, Case

from sprout_fast import sample_mixup


@pytest.mark.parametrize("contestant", ["sprout_fast", "eager", "compiled", "torch.distributions"])
@pytest.mark.parametrize("batch", [batch for batch, _ in IMAGES])
def test_sample_mixup(measure, contestant, batch):
    mixup_alpha = torch.full((2,), 0.2)
    functions = {
        "sprout_fast": lambda index, mixup_alpha: sample_mixup(len(index), next(STATES)),
        "eager": composites.sample_mixup,
        "torch.distributions": composites.sample_mixup_distribution,
    }
    case = Case(
        "sample_mixup",
        str(batch),
        FORWARD,
        8 * batch + 4,
        functions,
        (torch.arange(batch), mixup_alpha),
    )
    measure(case, contestant)
