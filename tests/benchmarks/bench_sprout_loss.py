"""sprout_loss, forward and backward to logits and beta, against PyTorch's composite and against
what
natural training pays: hard-label cross entropy."""

import pytest
import torch
import torch.nn.functional as F

from sprout_fast import sprout_loss

RECIPES = {"paper": (0.01, 1.0), "code": (1 / 11, 11.0)}
SIZES = [(128, 10), (256, 1000)]
STATE = torch.tensor([1, 2, 0])


def inputs(batch, classes):
    logits = torch.randn(batch, classes, requires_grad=True)
    beta = torch.rand(classes, requires_grad=True)
    return logits, torch.randint(classes, (batch,)), beta


def step(benchmark, tensors, loss):
    def run():
        for tensor in tensors:
            tensor.grad = None
        loss().backward()

    run()
    benchmark(run)


@pytest.mark.parametrize("batch, classes", SIZES)
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("beta_grad", ["implicit", "expected"])
def test_sprout_fast(benchmark, batch, classes, recipe, beta_grad):
    logits, labels, beta = inputs(batch, classes)
    alpha, scale = RECIPES[recipe]
    options = dict(alpha=alpha, scale=scale, beta_grad=beta_grad)
    step(
        benchmark,
        (logits, beta),
        lambda: sprout_loss(logits, labels, None, None, beta, STATE, **options),
    )


@pytest.mark.parametrize("batch, classes", SIZES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_torch_distributions(benchmark, batch, classes, recipe):
    logits, labels, beta = inputs(batch, classes)
    alpha, scale = RECIPES[recipe]
    one_hot = F.one_hot(labels, classes).float()

    def loss():
        concentration = scale * ((1 - alpha) * one_hot + alpha * beta)
        z = torch.distributions.Dirichlet(concentration, validate_args=False).rsample()
        return -(z * F.log_softmax(logits, 1)).sum(1).mean()

    step(benchmark, (logits, beta), loss)


@pytest.mark.parametrize("batch, classes", SIZES)
def test_cross_entropy(benchmark, batch, classes):
    logits, labels, _ = inputs(batch, classes)
    step(benchmark, (logits,), lambda: F.cross_entropy(logits, labels))
