"""torch.func's transforms and forward-mode AD on the ops: right, or refused by name."""

from __future__ import annotations

import pytest
import torch
from helpers.op_inputs import STATE
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacrev, jvp, vmap

from sprout_fast import (
    dirichlet,
    gaussian_mixup,
    generalized_cross_entropy,
    log_gamma,
    sprout_loss,
)

LABELS, PARTNER, LAM = torch.tensor([0, 3, 1, 2]), torch.tensor([1, 2, 3, 0]), torch.rand(4)
LOGITS, CONCENTRATION = torch.randn(4, 5), torch.rand(4, 5) + 0.1
IMAGES, BETA = torch.rand(4, 3, 4, 4), torch.rand(5)
OPS = {
    "log_gamma": (lambda x: log_gamma(x, STATE), CONCENTRATION),
    "dirichlet": (lambda x: dirichlet(x, STATE), CONCENTRATION),
    "gaussian_mixup": (
        lambda x: gaussian_mixup(x, PARTNER, LAM, STATE, mean=0.4, std=[0.2, 0.3, 0.4]),
        IMAGES,
    ),
    "gaussian_mixup, paired": (
        lambda x: gaussian_mixup(x, PARTNER, LAM, STATE, noise="paired"),
        IMAGES,
    ),
    "sprout_loss": (lambda x: sprout_loss(x, LABELS, PARTNER_LABELS, LAM, BETA, STATE), LOGITS),
    "sprout_loss, none": (
        lambda x: sprout_loss(x, LABELS, None, None, BETA, STATE, reduction="none"),
        LOGITS,
    ),
    "sprout_loss, beta": (
        lambda b: sprout_loss(LOGITS, LABELS, PARTNER_LABELS, LAM, b, STATE),
        BETA,
    ),
    "generalized_cross_entropy": (lambda x: generalized_cross_entropy(x, LABELS), LOGITS),
    "generalized_cross_entropy, target": (
        lambda t: generalized_cross_entropy(LOGITS, t),
        CONCENTRATION / CONCENTRATION.sum(1, keepdim=True),
    ),
}
PARTNER_LABELS = LABELS[PARTNER]
FORWARD = [name for name in OPS if name.startswith(("log_gamma", "dirichlet", "gaussian"))]


def weights_of(out):
    return torch.linspace(0.5, 1.5, out.numel()).view(out.shape)


@pytest.mark.parametrize("name", OPS)
def test_grad_is_autograds(name):
    op, x = OPS[name]

    def value(x):
        out = op(x)
        return (weights_of(out) * out).sum()

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(value(leaf), leaf)
    assert expected.abs().max() > 0
    torch.testing.assert_close(grad(value)(x), expected)
    torch.testing.assert_close(jacrev(value)(x), expected)
    twice = torch.stack([x, x * 0.9])
    apart = torch.stack([grad(value)(one) for one in twice])
    torch.testing.assert_close(vmap(grad(value))(twice), apart)


def test_gradients_of_each_sample():
    """The usual form: vmap over the samples of a batch, of the gradient of the weights."""
    weight, inputs = torch.randn(6, 5), torch.randn(4, 6)

    def loss(weight, sample, label):
        logits = (sample @ weight)[None]
        return sprout_loss(logits, label[None], None, None, BETA, STATE, label_mode="mean")

    each = vmap(grad(loss), in_dims=(None, 0, 0))(weight, inputs, LABELS)
    for sample, label, gradient in zip(inputs, LABELS, each, strict=True):
        leaf = weight.clone().requires_grad_()
        expected = torch.autograd.grad(loss(leaf, sample, label), leaf)[0]
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("name", FORWARD)
def test_forward_mode_is_the_transposed_backward(name):
    op, x = OPS[name]
    tangent = torch.randn(x.shape)
    out, out_tangent = jvp(op, (x,), (tangent,))[:2]
    assert torch.equal(out, op(x))
    leaf = x.clone().requires_grad_()
    weights = weights_of(out)
    (backward,) = torch.autograd.grad(op(leaf), leaf, weights)
    torch.testing.assert_close((out_tangent * weights).sum(), (tangent * backward).sum())
    with forward_ad.dual_level():
        dual = op(forward_ad.make_dual(x, tangent))
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, out_tangent)


@pytest.mark.parametrize("name", [name for name in OPS if name not in FORWARD])
def test_losses_have_no_forward_mode(name):
    op, x = OPS[name]
    with pytest.raises(
        RuntimeError, match=f"sprout_fast::{name.split(',')[0]} has no forward-mode"
    ):
        jvp(op, (x,), (torch.ones_like(x),))
    with (
        forward_ad.dual_level(),
        pytest.raises(RuntimeError, match="use reverse mode"),
    ):
        op(forward_ad.make_dual(x, torch.ones_like(x)))


@pytest.mark.parametrize("name", ["log_gamma", "generalized_cross_entropy"])
def test_second_derivatives_are_refused(name):
    op, x = OPS[name]
    with pytest.raises(RuntimeError, match="has no second derivative"):
        jacrev(grad(lambda x: op(x).sum()))(x)
    with pytest.raises(RuntimeError, match="has no (second|forward-mode) derivative"):
        hessian(lambda x: op(x).sum())(x)
