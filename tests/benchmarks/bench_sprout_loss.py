"""Benchmark sprout_loss with gradients to logits and beta.

The baselines are PyTorch's samplers with autograd, and cross entropy with class indices, which is
what natural training computes.
"""

from functools import partial

import composites
import pytest
import torch
import torch.nn.functional as F
from harness import FORWARD, ROWS, STATES, WITH_BACKWARD, Case

from sprout_fast import sprout_loss

RECIPES = {"paper": (0.01, 1.0), "code": (1 / 11, 11.0)}  # alpha, scale
OURS = {"sprout_fast, implicit": "implicit", "sprout_fast, expected": "expected"}
OTHERS = ("eager", "compiled", "torch.distributions", "cross_entropy", "memcpy")


def loss_case(batch, classes, what, recipe, dtype=torch.float32) -> Case:
    logits = torch.randn(batch, classes).to(dtype).requires_grad_()
    labels = torch.randint(classes, (batch,))
    beta = torch.rand(classes, requires_grad=True)
    one_hot = F.one_hot(labels, classes).float()
    alpha, scale = RECIPES[recipe]

    def ours(logits, one_hot, beta, alpha, scale, *, beta_grad="implicit"):
        options = dict(alpha=alpha, scale=scale, beta_grad=beta_grad)
        return sprout_loss(logits, labels, None, None, beta, next(STATES), **options)

    functions = {name: partial(ours, beta_grad=beta_grad) for name, beta_grad in OURS.items()}
    functions |= {
        "sprout_fast": ours,
        "eager": composites.sprout_loss_by_gammas,
        "torch.distributions": composites.sprout_loss,
        "cross_entropy": lambda logits, *_: F.cross_entropy(logits, labels),
    }
    return Case(
        "sprout_loss",
        f"{batch}×{classes}",
        what,
        (1 if what == FORWARD else 2) * logits.nbytes,  # one pass can compute loss and gradient
        functions,
        (logits, one_hot, beta, alpha, scale),
        leaves=(logits, beta),
        setting=f"{recipe}, {dtype}".replace("torch.", ""),
    )


@pytest.mark.parametrize("contestant", ["sprout_fast", *OTHERS])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("batch, classes", ROWS)
def test_forward(measure, contestant, batch, classes, recipe):
    measure(loss_case(batch, classes, FORWARD, recipe), contestant)


@pytest.mark.parametrize("contestant", [*OURS, *OTHERS])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("batch, classes", ROWS)
def test_with_gradients(measure, contestant, batch, classes, recipe):
    measure(loss_case(batch, classes, WITH_BACKWARD, recipe), contestant)


@pytest.mark.parametrize("contestant", [*OURS, *OTHERS])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("batch, classes", ROWS[:2])
def test_with_gradients_bfloat16(measure, contestant, batch, classes, recipe):
    measure(loss_case(batch, classes, WITH_BACKWARD, recipe, torch.bfloat16), contestant)
