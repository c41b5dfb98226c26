"""Auto-PGD against torchattacks and a plain form of the algorithm, and its schedule."""

import pytest
import torch
import torchattacks
from helpers.networks import THIRD_EPS, errs, victim
from torch import nn

from sprout_fast.attacks import ATTACKS, apgd, apgd_l1
from sprout_fast.attacks.active import ActiveSet
from sprout_fast.attacks.apgd import apgd_ce, apgd_t
from sprout_fast.attacks.balls import BALLS
from sprout_fast.attacks.losses import LOSSES, likeliest_wrong

NORMS = pytest.mark.parametrize("norm", ["linf", "l2"])
NAMES = {"linf": "Linf", "l2": "L2"}


@NORMS
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_succeeds_as_often_as_torchattacks(norm, loss):
    model, images, labels = victim()
    eps = THIRD_EPS[norm]
    reference = torchattacks.APGD(model, norm=NAMES[norm], eps=eps, steps=30, loss=loss)
    expected = errs(model, reference(images, labels), labels).float().mean().item()
    got = apgd_ce(model, images, labels, norm=norm, eps=eps, steps=30, loss=loss)
    assert 0.2 < expected < 0.8
    assert errs(model, got, labels).float().mean() == pytest.approx(expected, abs=0.0101)


@NORMS
def test_targeted_succeeds_as_often_as_torchattacks(norm):
    model, images, labels = victim()
    eps = THIRD_EPS[norm]
    reference = torchattacks.APGDT(model, norm=NAMES[norm], eps=eps, steps=15, n_classes=5)
    expected = errs(model, reference(images, labels), labels).float().mean().item()
    got = apgd_t(model, images, labels, norm=norm, eps=eps, steps=15, target_classes=4)
    assert 0.2 < expected < 0.8
    assert errs(model, got, labels).float().mean() == pytest.approx(expected, abs=0.0101)


def test_checkpoints_of_the_paper():
    assert sorted(apgd._checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert sorted(apgd._checkpoints(5)) == [2, 3, 4, 5]
    assert not apgd._checkpoints(0) - {0}


def plain_apgd(loss, ball, image, start, eps, steps):
    """Run Algorithm 1 on one image, storing every f(x^(k)).

    Returns:
        x_max, the last point, and the step sizes.
    """

    def evaluate(x):
        x = x.detach().requires_grad_()
        value = loss(x)
        return value.item(), torch.autograd.grad(value, x)[0]

    eta, step_sizes = 2 * eps, []
    x, before = start, start
    value, gradient = evaluate(x)
    values, x_max, f_max, gradient_max = [value], x, value, gradient
    marks, f_max_at, eta_at, last = sorted(apgd._checkpoints(steps)), f_max, None, 0
    for k in range(steps):
        z = ball.project(x + eta * ball.direction(gradient), image, eps)
        if k > 0:
            z = ball.project(x + 0.75 * (z - x) + 0.25 * (x - before), image, eps)
        before, x = x, z
        step_sizes.append(eta)
        value, gradient = evaluate(x)
        values.append(value)
        if value > f_max:
            x_max, f_max, gradient_max = x, value, gradient
        if k + 1 in marks:
            rises = sum(values[i + 1] > values[i] for i in range(last, k + 1))
            few = rises < 0.75 * (k + 1 - last)
            stuck = eta == eta_at and f_max == f_max_at
            eta_at, f_max_at, last = eta, f_max, k + 1
            if few or stuck:
                eta, x, gradient = eta / 2, x_max, gradient_max
                values[-1] = f_max
    return x_max, x, step_sizes


@NORMS
@pytest.mark.parametrize("early_checkpoints", [False, True])
def test_equals_the_algorithm_in_its_plain_form(norm, early_checkpoints, monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Tanh(), nn.Linear(16, 5)).double()
    model.requires_grad_(False)
    images = torch.rand(6, 3, 4, 4, dtype=torch.float64)
    labels = model(images).argmax(1)
    eps, steps, ball = {"linf": 0.02, "l2": 0.1}[norm], 25, BALLS[norm]
    if early_checkpoints:  # else the last step is one, where the search returns to the best point
        eps *= 20
        monkeypatch.setattr(apgd, "_checkpoints", lambda steps: {6})
    active = ActiveSet(images, labels)
    active.drop = lambda points, logits: torch.arange(len(points))  # none is dropped
    apgd._ascend(model, images, active, LOSSES["ce"], None, norm, eps, steps, None)
    sizes, apart = set(), 0.0
    for i in range(len(images)):
        expected, last, step_sizes = plain_apgd(
            lambda x, i=i: LOSSES["ce"](model(x), labels[i : i + 1])[0],
            ball, images[i : i + 1], images[i : i + 1], eps, steps,
        )  # fmt: skip
        sizes.add(step_sizes[-1])
        torch.testing.assert_close(active.adversarial[i], expected[0], rtol=0, atol=1e-7)
        apart = max(apart, (last - expected).abs().max().item())
    assert (apart > 1e-5) == early_checkpoints  # whether the last point is not the best one
    assert early_checkpoints or max(sizes) < 2 * eps / 4  # halved more than once


@pytest.mark.parametrize("name", ["apgd_ce", "apgd_t"])
def test_misclassified_images_cost_nothing(name):
    model, images, labels = victim()
    seen = []
    handle = model.register_forward_hook(lambda module, inputs, _: seen.append(len(inputs[0])))
    try:
        got = ATTACKS[name](model, images, labels, eps=0.03, steps=10)
    finally:
        handle.remove()
    assert seen == sorted(seen, reverse=True)  # no image is reactivated
    assert seen[0] == len(images) and seen[1] == (~errs(model, images, labels)).sum()
    runs = 9 if name == "apgd_t" else 1
    assert len(seen) == 1 + runs * (10 + 1)
    correct = (~errs(model, got, labels)).sum()
    assert correct <= seen[-1] <= correct + 3


def test_targets_are_the_likeliest_wrong_classes():
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0], [3.0, 3.0, 3.0, 4.0]])
    assert likeliest_wrong(logits, torch.tensor([0, 3]), 2).tolist()[0] == [2, 1]
    everything = likeliest_wrong(logits, torch.tensor([0, 0]), 9)
    assert everything.shape == (2, 3)
    assert sorted(everything[1].tolist()) == [1, 2, 3]  # never the label, not even in a tie


def test_steps_increase_success():
    model, images, labels = victim()

    def misclassified(**options):
        return errs(model, apgd_ce(model, images, labels, eps=0.02, **options), labels).sum()

    assert misclassified(steps=0) < misclassified(steps=3)


def test_each_restart_has_all_its_steps_from_a_start_of_its_own():
    model, images, labels = victim()
    images, labels = (x[~errs(model, images, labels)][:10] for x in (images, labels))
    calls = []
    hook = model.register_forward_hook(lambda module, inputs, _: calls.append(inputs[0].detach()))
    try:
        apgd_ce(model, images, labels, eps=1e-4, steps=3, restarts=4)  # never succeeds
    finally:
        hook.remove()
    assert [len(call) for call in calls] == [10] * (1 + 4 * (3 + 1))
    starts = calls[1::4]
    assert all(not torch.equal(a, b) for i, a in enumerate(starts) for b in starts[:i])


def test_small_gradients_keep_their_direction():
    gradient = torch.randn(3, 2, 4, 4)
    gradient[2] = 0
    for ball in BALLS.values():
        expected = ball.direction(gradient)
        torch.testing.assert_close(ball.direction(gradient * 1e-30), expected)
        assert (expected[2] == 0).all()
        assert (ball.direction(gradient * torch.nan) == 0).all()


def test_dlr_with_too_few_classes_is_an_error():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    with torch.no_grad():
        labels = model(torch.zeros(1, 3, 1, 1)).argmax(1)
    with pytest.raises(ValueError, match="dlr: got 2 classes, expected at least 3"):
        apgd_ce(model, torch.zeros(1, 3, 1, 1), labels, loss="dlr")


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_the_targeted_loss_needs_four_classes_for_its_ratio(classes, monkeypatch):
    used = set()

    def noted(name, loss):
        def value(*args):
            used.add(name)
            return loss(*args)

        return value

    for name, loss in list(LOSSES.items()):
        monkeypatch.setitem(LOSSES._entries, name, noted(name, loss))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, classes))
    images = torch.rand(6, 3, 2, 2)
    apgd_t(model, images, model(images).argmax(1), eps=1e-6, steps=2, target_classes=1)
    assert used == {"dlr" if classes >= 4 else "margin"}


@pytest.mark.parametrize("kept, sparser", [(94, True), (96, False)])
def test_the_l1_step_is_as_long_as_at_first_where_the_best_point_became_sparser(kept, sparser):
    center, eps = torch.zeros(1, 1, 10, 10), 5.0
    best = center.clone().flatten(1).index_fill_(1, torch.arange(kept), 0.01).view_as(center)
    state = apgd_l1._State(
        points=torch.ones_like(center),
        gradient=torch.ones_like(center),
        best=best,
        best_gradient=-torch.ones_like(center),
        best_loss=torch.zeros(1),
        step_size=torch.full((1, 1), 3.0),
        moving=torch.full((1, 1), 20),
        differing=torch.full((1, 1), 100),
    )
    apgd_l1._adapt(state, center, eps)
    assert state.step_size.item() == pytest.approx(eps if sparser else 3.0 / 1.5)
    assert torch.equal(state.points, best if sparser else torch.ones_like(center))
    assert state.differing.item() == kept and state.moving.item() == -(-kept * 2 // 3)
