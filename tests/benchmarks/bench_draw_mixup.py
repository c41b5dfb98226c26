"""draw_mixup against the same draws by PyTorch: a handful of numbers, so the calls themselves."""

import composites
import pytest
import torch
from harness import FORWARD, IMAGES, STATES, Case

from sprout_fast import draw_mixup


@pytest.mark.parametrize("contestant", ["ours", "eager", "compiled", "torch.distributions"])
@pytest.mark.parametrize("batch", [batch for batch, _ in IMAGES])
def test_draw_mixup(measure, contestant, batch):
    a = torch.full((2,), 0.2)
    functions = {
        "ours": lambda place, a: draw_mixup(next(STATES), len(place)),
        "eager": composites.draw_mixup,
        "torch.distributions": composites.draw_mixup_distribution,
    }
    case = Case(
        "draw_mixup", str(batch), FORWARD, 8 * batch + 4, functions, (torch.arange(batch), a)
    )
    measure(case, contestant)
