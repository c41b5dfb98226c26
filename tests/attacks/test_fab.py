"""FAB against torchattacks, and its projection against a general optimizer."""

import numpy as np
import pytest
import torch
import torchattacks
from helpers.networks import THIRD_EPS, errs, victim
from scipy.optimize import linprog, minimize
from torch import nn

from sprout_fast.attacks import fab
from sprout_fast.attacks.balls import BALLS
from sprout_fast.attacks.fab import fab_t

NORMS = pytest.mark.parametrize("norm", BALLS)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_succeeds_as_often_as_torchattacks(norm):
    model, images, labels = victim()
    eps = THIRD_EPS[norm]
    reference = torchattacks.FAB(
        model, norm={"linf": "Linf", "l2": "L2"}[norm], eps=eps, steps=25,
        multi_targeted=True, n_classes=4,
    )  # fmt: skip
    expected = errs(model, reference(images, labels), labels).float().mean().item()
    got = fab_t(model, images, labels, norm=norm, eps=eps, steps=25, target_classes=3)
    assert 0.2 < expected < 0.8
    assert errs(model, got, labels).float().mean() == pytest.approx(expected, abs=0.0101)


def shortest_by_scipy(point, normal, value, norm):
    """Return the length of the shortest d to the plane in the box; None if it misses the box."""
    size = len(point)
    if norm == "l1":  # d = up - down
        result = linprog(
            [1.0] * 2 * size,
            A_eq=[[*normal, *-normal]],
            b_eq=[-value],
            bounds=[(0, 1 - x) for x in point] + [(0, x) for x in point],
        )
        return result.fun if result.success else None
    if norm == "linf":  # least t with -t <= d_i <= t
        eye = np.eye(size)
        result = linprog(
            [0.0] * size + [1.0],
            A_ub=np.block([[eye, -np.ones((size, 1))], [-eye, -np.ones((size, 1))]]),
            b_ub=np.zeros(2 * size),
            A_eq=[[*normal, 0.0]],
            b_eq=[-value],
            bounds=[(-x, 1 - x) for x in point] + [(0, None)],
        )
        return result.fun if result.success else None
    result = minimize(
        lambda d: d @ d,
        np.zeros(size),
        jac=lambda d: 2 * d,
        method="SLSQP",
        bounds=[(-x, 1 - x) for x in point],
        constraints={"type": "eq", "fun": lambda d: value + normal @ d, "jac": lambda d: normal},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return result.fun**0.5 if result.success else None


@NORMS
def test_the_projection_is_the_closest_point_of_plane_and_box(norm):
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(60, 12, generator=generator, dtype=torch.float64)
    points[:, :3] = points[:, :3].round()  # on the border
    normal = torch.randn(60, 12, generator=generator, dtype=torch.float64)
    normal[:, 5] = 0
    value = 2 * torch.randn(60, generator=generator, dtype=torch.float64)
    got = fab._to_plane(points, normal, value, norm)
    assert (got[:, 5] == 0).all()
    moved = points + got
    assert moved.min() >= -1e-15 and moved.max() <= 1 + 1e-15
    reached = missed = 0
    for i in range(60):
        rows = (points[i].numpy(), normal[i].numpy(), value[i].item())
        expected = shortest_by_scipy(*rows, norm)
        if expected is None:  # the corner closest to the plane
            missed += 1
            corner = torch.where(normal[i] * value[i].sign() > 0, 0.0, 1.0)
            torch.testing.assert_close(moved[i][normal[i] != 0], corner[normal[i] != 0].double())
        else:
            reached += 1
            assert value[i] + normal[i] @ got[i] == pytest.approx(0, abs=1e-12)
            length = torch.linalg.vector_norm(got[i], ord=fab._order(norm))
            assert length.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert reached > 30 and missed > 3


@NORMS
def test_the_projection_of_a_point_on_the_plane_or_without_one(norm):
    points = torch.rand(3, 8)
    normal = torch.randn(3, 8)
    normal[1] = 0
    got = fab._to_plane(points, normal, torch.tensor([0.0, 1.0, 1e-30]), norm)
    assert got.isfinite().all() and got.abs().max() < 1e-20


@NORMS
def test_the_boundary_of_a_linear_model_is_found_exactly(norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).double().requires_grad_(False)
    images = 0.3 + 0.4 * torch.rand(10, 3, 4, 4, dtype=torch.float64)  # away from the border
    labels = model(images).argmax(1)
    got = fab_t(model, images, labels, norm=norm, eps=None, steps=10)
    assert errs(model, got, labels).all()
    normal = (model[1].weight[0] - model[1].weight[1]).abs()
    gap = model(images).diff(dim=1).abs().flatten()
    if norm == "l1":  # one pixel after the other, the steepest first, each up to the border
        toward = -(model[1].weight[0] - model[1].weight[1])[None] * (1 - 2 * labels[:, None])
        pixels = images.flatten(1)
        room = torch.where(toward > 0, 1 - pixels, pixels)
        expected = fab._fewest_moves(normal.expand(10, -1), room, gap).sum(1)
    else:
        expected = gap / (normal.sum() if norm == "linf" else normal.norm())
    distance = BALLS[norm].distance(images, got)
    assert (distance >= expected * (1 - 1e-9)).all()
    assert (distance <= expected * 1.001).all()


@NORMS
def test_eps_is_only_a_threshold_on_the_closest_point(norm):
    model, images, labels = victim()
    images, labels = images[:30], labels[:30]
    options = {"norm": norm, "steps": 20, "target_classes": 3}
    closest = fab_t(model, images, labels, eps=None, **options)
    right = ~errs(model, images, labels)
    assert errs(model, closest, labels).all()
    distance = BALLS[norm].distance(images, closest)
    eps = distance[right].median().item()
    bounded = fab_t(model, images, labels, eps=eps, **options)
    misclassified = errs(model, bounded, labels)
    assert torch.equal(misclassified, distance <= eps)
    assert torch.equal(bounded[~misclassified], images[~misclassified])
    assert BALLS[norm].distance(images, bounded).max() <= eps
    fewer = fab_t(model, images, labels, eps=None, **(options | {"target_classes": 1}))
    assert (BALLS[norm].distance(images, fewer) >= distance - 1e-12).all()


@NORMS
def test_the_final_search_brings_points_closer(norm, monkeypatch):
    model, images, labels = victim()
    options = {"norm": norm, "eps": None, "steps": 5, "target_classes": 2}
    searched = BALLS[norm].distance(images, fab_t(model, images, labels, **options))
    monkeypatch.setattr(fab, "_FINAL_STEPS", 0)
    plain = BALLS[norm].distance(images, fab_t(model, images, labels, **options))
    # With a search after each target; a later run never replaces a point with a more distant one.
    assert (searched <= plain + 1e-12).all() and (searched < plain).any()


@NORMS
def test_restarts_start_within_half_the_distance_and_never_hurt(norm):
    model, images, labels = victim()
    search = fab._Search(model, images, labels, norm, 0.1)
    search.distance[:5] = 0.06
    start = search.near(torch.Generator().manual_seed(0))
    away = BALLS[norm].distance(images, start)
    assert (away[:5] <= 0.03 + 1e-7).all() and (away[5:] <= 0.05 + 1e-7).all()
    assert (away[5:] > 0.02).all() and start.min() >= 0 and start.max() <= 1

    options = {"norm": norm, "eps": None, "steps": 5, "target_classes": 1}
    once = BALLS[norm].distance(images, fab_t(model, images, labels, **options))
    more = BALLS[norm].distance(images, fab_t(model, images, labels, restarts=3, **options))
    assert (more <= once).all() and (more < once).any()


@NORMS
def test_untargeted_steps_lead_to_the_closest_boundary(norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).double().requires_grad_(False)
    points = torch.rand(8, 3, 2, 2, dtype=torch.float64)
    labels = model(points).argmax(1)
    value, gradient = fab._closest_boundary(model, points, labels, norm)
    weight, logits = model[1].weight, model(points)
    dual = {"linf": 1, "l2": 2, "l1": torch.inf}[norm]
    for i, label in enumerate(labels.tolist()):
        gaps, normals = logits[i] - logits[i, label], weight - weight[label]
        distances = gaps.abs() / torch.linalg.vector_norm(normals, ord=dual, dim=1)
        closest = distances.nan_to_num(nan=torch.inf).argmin()
        torch.testing.assert_close(value[i], logits[i, closest] - logits[i, label])
        torch.testing.assert_close(gradient[i].flatten(), weight[closest] - weight[label])


@NORMS
def test_untargeted_finds_points_about_as_close_as_targeted(norm):
    model, images, labels = victim(40)
    options = {"norm": norm, "eps": None, "steps": 15, "restarts": 1}
    own = BALLS[norm].distance(images, fab.fab(model, images, labels, **options))
    targeted = BALLS[norm].distance(images, fab_t(model, images, labels, **options))
    wrong = errs(model, images, labels)
    assert (own[~wrong] > 0).all()
    assert own.median() < 1.1 * targeted.median()


def test_misclassified_images_cost_nothing():
    model, images, labels = victim()
    seen = []
    handle = model.register_forward_hook(lambda module, inputs, _: seen.append(len(inputs[0])))
    try:
        fab_t(model, images, labels, eps=0.03, steps=10, target_classes=2)
    finally:
        handle.remove()
    assert seen == sorted(seen, reverse=True) and seen[-1] < 0.7 * seen[0]
    assert len(seen) == 1 + 2 * (2 * 10 + fab._FINAL_STEPS)


@NORMS
def test_one_image_alone_meets_the_attack_that_it_meets_in_a_batch(norm):
    model, images, labels = victim()
    options = {"norm": norm, "eps": None, "steps": 10, "restarts": 1}
    together = fab.fab(model, images, labels, **options)
    right = ~errs(model, images, labels)
    for row in right.nonzero()[:4, 0]:
        alone = fab.fab(model, images[row : row + 1], labels[row : row + 1], **options)
        assert not torch.equal(alone[0], images[row])
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-4)
