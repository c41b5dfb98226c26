"""Carlini & Wagner's l2 attack: distances against foolbox and a formula, and its cost."""

import copy

import foolbox
import pytest
import torch
from helpers.networks import errs, made_images, trained
from torch import nn

from sprout_fast.attacks.balls import BALLS
from sprout_fast.attacks.cw_l2 import cw_l2
from sprout_fast.attacks.losses import margin

SMALL = {"binary_searches": 4, "steps": 80, "initial_constant": 0.1}
distance = BALLS["l2"].distance


@pytest.fixture(scope="module")
def attacked():
    """Model, images, labels, and the attack's result on them."""
    model, (images, labels) = trained(False), made_images(40, seed=0)
    return model, images, labels, cw_l2(model, images, labels, **SMALL)


def test_distances_equal_foolboxs(attacked):
    model, images, labels, got = attacked
    attack = foolbox.attacks.L2CarliniWagnerAttack(4, 80, stepsize=0.01, initial_const=0.1)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    expected, _, _ = attack(wrapped, images, labels, epsilons=None)
    assert errs(model, got, labels).all() and errs(model, expected, labels).all()
    assert got.min() >= 0 and got.max() <= 1 and not got.requires_grad
    lengths, expected_lengths = distance(got, images), distance(expected, images)
    assert lengths.median().item() == pytest.approx(expected_lengths.median().item(), rel=0.03)
    right = ~errs(model, images, labels)
    assert (lengths[right] < 1.05 * expected_lengths[right]).double().mean() > 0.9
    assert (lengths[~right] == 0).all()
    # A smaller distance would be implausible: PGD would find it easily.
    assert lengths[right].min() > 0.01


def test_the_closest_point_of_a_linear_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).double()
    images = made_images(20, seed=0)[0].double() * 0.4 + 0.3  # away from the border of [0,1]
    labels = model(images).argmax(1)
    got = cw_l2(model, images, labels, binary_searches=6, steps=150, initial_constant=0.1)
    weight = model[1].weight[0] - model[1].weight[1]
    expected = margin(model(images), labels).abs() / weight.norm()
    torch.testing.assert_close(distance(got, images), expected, rtol=0.03, atol=0)
    assert got.dtype == torch.float64


def test_eps_ends_the_search_at_a_point_within_it(attacked):
    model, images, labels, closest = attacked
    eps = distance(closest, images).median().item()
    seen = []
    handle = model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    got = cw_l2(model, images, labels, eps=eps, **SMALL)
    with_eps, seen[:] = list(seen), []
    cw_l2(model, images, labels, **SMALL)
    found = distance(closest, images) <= eps
    assert (errs(model, got, labels) == found).double().mean() > 0.95
    assert (distance(got, images) <= eps).all()
    missed = ~errs(model, got, labels)
    assert torch.equal(got[missed], images[missed])
    assert with_eps[0] == len(images) and with_eps[-1] <= 0.6 * len(images)
    assert sum(with_eps) < 0.95 * sum(seen)
    seen[:] = []
    options = {"binary_searches": 1, "steps": 40, "initial_constant": 10.0, "step_size": 0.02}
    cw_l2(model, images, labels, eps=0.8, **options)
    handle.remove()
    assert seen[5] < seen[1]  # also within a search, before its progress is first checked
    assert cw_l2(model, images, labels, eps=0.0, **SMALL).equal(images)


def test_the_binary_search(monkeypatch):
    tried = []

    def minimise(model, closest, rows, constant, steps, step_size):
        tried.append(constant.tolist())
        return constant >= torch.tensor([0.7, torch.inf])

    monkeypatch.setattr("sprout_fast.attacks.cw_l2._minimize", minimise)
    images, labels = made_images(200, seed=0)
    right = (~errs(trained(False), images, labels)).nonzero().flatten()[:2]
    options = {"steps": 1, "initial_constant": 0.1}
    cw_l2(trained(False), images[right], labels[right], binary_searches=10, **options)
    first, never = torch.tensor(tried, dtype=torch.float64).T
    expected = [0.1, 1, 0.55, 0.775, 0.6625, 0.71875, 0.690625, 0.7046875, 0.69765625, 0.7046875]
    assert first.tolist() == pytest.approx(expected, rel=1e-6)
    assert never.tolist() == pytest.approx([10.0**k for k in range(-1, 8)] + [1e10], rel=1e-6)


def test_images_leave_a_search_without_progress():
    class Flat(nn.Module):
        def forward(self, images):
            return 0 * images.flatten(1)[:, :3] + torch.tensor([1.0, 0, 0])

    images, seen, model = torch.rand(2, 3, 4, 4), [], Flat()
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    got = cw_l2(model, images, torch.zeros(2, dtype=torch.int64), binary_searches=3, steps=100)
    assert torch.equal(got, images)
    assert len(seen) == 1 + 3 * 11  # the images, then up to the first step of the second tenth


def test_images_do_not_influence_each_other(attacked):
    model, images, labels, together = attacked
    alone = cw_l2(model, images[3:4], labels[3:4], **SMALL)
    got, expected = (distance(x, images[3:4]) for x in (alone, together[3:4]))
    torch.testing.assert_close(got, expected, rtol=0.02, atol=0)


def test_corners_of_the_box(attacked):
    model, images, _, _ = attacked
    corners = images[:10].round()
    labels = model(corners).argmax(1)
    # Where tanh is flat, they would not move and would leave for lack of progress.
    options = {"binary_searches": 2, "steps": 80, "initial_constant": 10.0, "step_size": 0.05}
    got = cw_l2(model, corners, labels, **options)
    assert errs(model, got, labels).all()
    assert got.min() >= 0 and got.max() <= 1


def test_confidence(attacked):
    model, images, _, _ = attacked
    images = images[:10]
    labels = model(images).argmax(1)
    got = cw_l2(model, images, labels, confidence=1.0, **SMALL)
    assert not torch.equal(got, images)
    moved = distance(got, images) > 0
    assert moved.any() and (margin(model(got), labels)[moved] >= 1 - 1e-5).all()


def test_small_batches_and_the_models_state(attacked):
    model, images, labels, _ = attacked
    model = copy.deepcopy(model).train()
    empty = cw_l2(model, images[:0], labels[:0])
    assert empty.shape == (0, 3, 8, 8)
    with torch.inference_mode():
        cw_l2(model, images[:1], labels[:1], binary_searches=1, steps=5)
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": -1.0}, "eps: got -1.0"),
        ({"steps": 0}, "steps: got 0, expected an int >= 1"),
        ({"binary_searches": 0}, "binary_searches"),
        ({"step_size": 0.0}, "step_size: got 0, expected a finite number > 0"),
        ({"initial_constant": float("nan")}, "initial_constant"),
        ({"confidence": -1.0}, "confidence"),
    ],
)
def test_wrong_options(attacked, change, message):
    model, images, labels, _ = attacked
    with pytest.raises(ValueError, match="cw_l2: " + message):
        cw_l2(model, images, labels, **change)
