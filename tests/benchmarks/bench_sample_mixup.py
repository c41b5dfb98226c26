"""sample_mixup against the same draws by PyTorch: a handful of numbers, so the calls themselves."""

import composites
import pytest
import torch
from harness import FORWARD, IMAGES, STATES, Case

from sprout_fast import sample_mixup


@pytest.mark.parametrize("contestant", ["ours", "eager", "compiled", "torch.distributions"])
@pytest.mark.parametrize("batch", [batch for batch, _ in IMAGES])
def test_sample_mixup(measure, contestant, batch):
    a = torch.full((2,), 0.2)
    functions = {
        "ours": lambda place, a: sample_mixup(len(place), next(STATES)),
        "eager": composites.sample_mixup,
        "torch.distributions": composites.sample_mixup_distribution,
    }
    case = Case(
        "sample_mixup", str(batch), FORWARD, 8 * batch + 4, functions, (torch.arange(batch), a)
    )
    measure(case, contestant)
