"""Attacks' losses against their formulas in numpy, and the effect of scaled logits."""

import numpy as np
import pytest
import torch

from sprout_fast.attacks.losses import LOSSES
from sprout_fast.errors import UserError

ROWS, CLASSES = 50, 6


def draw(scale=3.0):
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(ROWS, CLASSES, generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES, (ROWS,), generator=generator)
    targets = (labels + torch.randint(1, CLASSES, (ROWS,), generator=generator)) % CLASSES
    return logits, labels, targets


def formula(name, z, y, t, z_held):
    """Return the loss of one row; ``z_held`` has the margin that rescaled_ce holds constant."""
    if name == "rescaled_ce":
        first, second = sorted(z_held)[-1:-3:-1]
        z = z / (first - second)
    if name in ("ce", "rescaled_ce"):
        log_sum = np.log(np.exp(z - z.max()).sum()) + z.max()
        return log_sum - z[y] if t is None else z[t] - log_sum
    numerator = (max(np.delete(z, y)) if t is None else z[t]) - z[y]
    if name == "margin":
        return numerator
    ordered = sorted(z)[::-1]
    third = ordered[2] if t is None else (ordered[2] + ordered[3]) / 2
    return numerator / (ordered[0] - third)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients_equal_the_formulas(name, targeted):
    logits, labels, targets = draw()
    logits.requires_grad_()
    got = LOSSES[name](logits, labels, targets if targeted else None)
    (gradient,) = torch.autograd.grad(got.sum(), logits)
    assert got.shape == (ROWS,)
    step = 1e-6
    for row in range(ROWS):
        z, y = logits[row].detach().numpy(), labels[row].item()
        t = targets[row].item() if targeted else None
        assert got[row].item() == pytest.approx(formula(name, z, y, t, z), abs=1e-9)
        for k in range(CLASSES):
            there = np.eye(CLASSES)[k] * step
            slope = formula(name, z + there, y, t, z) - formula(name, z - there, y, t, z)
            assert gradient[row, k].item() == pytest.approx(slope / (2 * step), abs=1e-5)
        if z.argmax() == y:  # the loss grows toward misclassification
            assert gradient[row, y] < 0 if t is None else gradient[row, t] > 0


@pytest.mark.parametrize("factor", [1e-3, 1e3])
@pytest.mark.parametrize("name", ["rescaled_ce", "dlr", "margin"])
def test_scaled_logits(name, factor):
    logits, labels, targets = draw()
    logits = logits.float()
    for chosen in (None, targets):
        plain = LOSSES[name](logits, labels, chosen)
        scaled = LOSSES[name](factor * logits, labels, chosen)
        torch.testing.assert_close(
            scaled, factor * plain if name == "margin" else plain, rtol=1e-4, atol=1e-5
        )


def test_only_the_gradient_of_cross_entropy_vanishes_for_scaled_logits():
    logits, labels, _ = draw()
    logits[torch.arange(ROWS), labels] += 10
    for name, vanishes in (("ce", True), ("rescaled_ce", False), ("margin", False), ("dlr", False)):
        leaf = (1000 * logits).float().requires_grad_()
        (gradient,) = torch.autograd.grad(LOSSES[name](leaf, labels).sum(), leaf)
        share = (gradient.abs().amax(1) == 0).float().mean().item()
        assert share == pytest.approx(float(vanishes), abs=0.05)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    "logits", [[3, 3, 1, 0], [3, 3, 3, 3], [0, 0, 0, 0], [1e6, 1e6, 0, 1], [1e-40, 0, -5, -5]]
)
def test_ties_have_finite_gradients(name, logits):
    leaf = torch.tensor([logits], dtype=torch.float32, requires_grad=True)
    value = LOSSES[name](leaf, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(1024 * value.sum(), leaf)
    assert value.isfinite().all() and gradient.isfinite().all()
    assert gradient[0, 0] < 0


def test_too_few_classes_and_unknown_names():
    logits, labels = torch.zeros(1, 3), torch.tensor([0])
    with pytest.raises(ValueError, match="dlr: got 2 classes, expected at least 3"):
        LOSSES["dlr"](logits[:, :2], labels)
    with pytest.raises(ValueError, match="dlr: got 3 classes, expected at least 4"):
        LOSSES["dlr"](logits, labels, torch.tensor([1]))
    with pytest.raises(UserError, match="loss: got 'mse', expected one of ce, rescaled_ce"):
        LOSSES.look_up("mse")
