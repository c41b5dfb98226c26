"""Square against torchattacks, its schedule and its shapes."""

import pytest
import torch
import torchattacks
from helpers.networks import errs, victim
from torch import nn

from sprout_fast.attacks import square as module
from sprout_fast.attacks.balls import BALLS
from sprout_fast.attacks.square import square

NORMS = pytest.mark.parametrize("norm", BALLS)


@pytest.mark.long
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_succeeds_as_often_as_torchattacks(norm):
    """On average over seeds, between which two or three images differ.

    A higher success rate is correct: torchattacks puts the squares of all images in one place, and
    never into the last row and column.
    """
    model, images, labels = victim()
    eps = {"linf": 0.03, "l2": 1.0}[norm]
    expected, got = [], []
    for seed in range(5):
        reference = torchattacks.Square(
            model, norm={"linf": "Linf", "l2": "L2"}[norm], eps=eps, n_queries=250, seed=seed
        )
        expected.append(errs(model, reference(images, labels), labels).float().mean())
        options = {"queries": 250, "rescale_schedule": True, "seed": seed}
        points = square(model, images, labels, norm=norm, eps=eps, **options)
        got.append(errs(model, points, labels).float().mean())
    mean = torch.stack(expected).mean()
    assert 0.2 < mean < 0.8
    assert mean - 0.01 <= torch.stack(got).mean() <= mean + 0.1


def recorded(images, norm, **options):
    """Return the inputs of a model that is always correct and whose margin keeps growing."""
    seen = []

    class Model(nn.Module):
        def forward(self, points):
            seen.append(points.clone())
            logits = torch.zeros(len(points), 2)
            logits[:, 1] = -1 + 1e-4 * len(seen)
            return logits

    got = square(Model(), images, torch.zeros(len(images)).long(), norm=norm, **options)
    assert torch.equal(got, seen[-1])
    assert torch.equal(seen[0], images)
    return seen[1:]


def sides_of(points):
    """Return the side of each query's squares, the largest over the images."""
    sides = []
    for before, after in zip(points[:-1], points[1:], strict=True):
        changed = (before != after).any(1)  # [B,H,W]
        rows, columns = changed.any(2).sum(1), changed.any(1).sum(1)
        sides.append(int(torch.maximum(rows, columns).max()))
        # A channel of the square changes as a whole or not at all.
        if sides[-1] == 1:
            assert changed.sum((1, 2)).max() == 1
    return sides


def test_the_default_schedule_is_autoattacks():
    images = torch.full((40, 3, 16, 16), 0.5)
    sides = sides_of(recorded(images, "linf", eps=0.1, queries=600))
    # sqrt(0.8 * 256 / 2^i), halved after 10, 50, 200 and 500 queries, however many there are.
    for last, side in ((10, 14), (50, 10), (200, 7), (500, 5)):
        assert sides[last] == side, last
        assert sides[last + 1] < side, last
    assert sides[-1] == 4


def test_linf_squares_shrink_as_in_the_paper():
    images = torch.full((40, 3, 16, 16), 0.5)
    points = recorded(images, "linf", eps=0.1, queries=1000, rescale_schedule=True)
    assert len(points) == 1000
    for point in (points[0], points[-1]):
        assert torch.allclose((point - images).abs(), torch.tensor(0.1))  # at corners of the ball
    assert (points[0] == points[0][:, :, :1]).all()  # stripes

    sides = sides_of(points)
    # sqrt(0.8 * 256 / 2^i), halved after 1, 5, 20, 50, 100, 200, 400, 600, 800 of the queries.
    expected = [14, 14, 10, 10, 10, 10, 7]
    assert sides[:7] == expected
    for query, side in ((19, 7), (30, 5), (70, 4), (150, 3), (300, 2), (500, 1), (900, 1)):
        assert sides[query] == side, query


def test_every_pixel_is_reached():
    images = torch.full((200, 1, 6, 6), 0.5)
    points = recorded(images, "linf", eps=0.1, queries=50, p_init=0.01)
    changed = torch.stack([a != b for a, b in zip(points[:-1], points[1:], strict=True)])
    share = changed.float().mean((0, 1, 2)) * 2 * 36  # half of the draws change nothing
    assert (share - 1).abs().max() < 0.3  # 9,800 draws: five standard deviations


@pytest.mark.parametrize(("height", "width"), [(5, 7), (6, 7), (8, 16), (7, 14)])
def test_a_peak_is_highest_in_the_middle_and_falls_with_the_distance(height, width):
    peak = module._peak(height, width, 1, 2)
    assert peak.argmax() == height // 2 * width + width // 2
    # Equation (2): the sum over rectangles of which each encloses the one before.
    expected = torch.zeros(height, width, dtype=torch.float64)
    for size in range(max(height, width) // 2 + 1):
        rows = slice(max(height // 2 - size, 0), height // 2 + size + 1)
        columns = slice(max(width // 2 - size, 0), width // 2 + size + 1)
        expected[rows, columns] += 1 / (size + 1) ** 2
    torch.testing.assert_close(peak, expected / expected.sum())


@NORMS
def test_each_image_has_its_own_squares(norm):
    images = torch.full((2, 3, 16, 16), 0.5)
    first, second = (p for p in recorded(images, norm, eps=0.1, queries=20)[-1])
    assert not torch.equal(first, second)


def test_l2_proposals_use_the_whole_ball():
    images = torch.full((8, 3, 16, 16), 0.5)
    points = recorded(images, "l2", eps=0.4, queries=60, rescale_schedule=True)
    for point in points:
        assert torch.allclose((point - images).flatten(1).norm(dim=1), torch.tensor(0.4), rtol=1e-4)
    # Nothing changes outside two squares of the same side, 3 pixels at the end.
    changed = ((points[-1] - points[-2]).abs() > 1e-6).any(1).sum((1, 2))
    assert changed.max() <= 18 and changed.float().mean() > 9


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_the_grid_of_the_start_is_in_the_middle(norm):
    images = torch.full((2, 3, 34, 37), 0.5)  # squares of 6 pixels: 5 rows of 6
    changed = (recorded(images, norm, eps=0.4, queries=1)[0] - images).abs() > 1e-9
    assert not changed[..., :2, :].any() and not changed[..., -2:, :].any()
    assert not changed[..., -1].any()
    if norm == "l2":  # in the l1 ball, the smallest ones are projected to 0
        assert changed[..., 2:-2, :-1].all()
    else:
        assert changed[..., 2:8, :].any() and changed[..., -8:-2, :].any()


def test_l1_proposals_use_the_whole_ball_and_are_sparse():
    images = torch.full((8, 3, 16, 16), 0.5)
    points = recorded(images, "l1", eps=4, queries=60, rescale_schedule=True)
    for point in points[10:]:
        assert torch.allclose((point - images).flatten(1).abs().sum(1), torch.tensor(4.0))
    assert (points[-1] != images).float().mean() < 0.1


def test_shape_of_the_l1_bump():
    bump = module._bump(6, order=1, decay=4)
    assert bump.abs().sum() == pytest.approx(1)
    sums = [sum(j**-4 for j in range(d + 1, 5)) for d in range(4)]
    peak = [[sums[max(abs(r - 1), abs(c - 3))] for c in range(6)] for r in range(3)]
    ratio = bump[:3] / torch.tensor(peak, dtype=torch.float64)
    torch.testing.assert_close(ratio, ratio[0, 0].expand(3, 6))


def test_shape_of_the_l2_bump():
    bump = module._bump(6)
    assert bump.norm() == pytest.approx(1) and bump.dtype == torch.float64
    torch.testing.assert_close(bump[:3], -bump[3:])
    # Peak 3 x 6 around (1, 3): distance 0, 1, 2, 3 from it; sums of 1/j^2, j from 1, 2, 3, 4 to 4.
    sums = [1 + 1 / 4 + 1 / 9 + 1 / 16, 1 / 4 + 1 / 9 + 1 / 16, 1 / 9 + 1 / 16, 1 / 16]
    peak = [[sums[max(abs(r - 1), abs(c - 3))] for c in range(6)] for r in range(3)]
    ratio = bump[:3] / torch.tensor(peak, dtype=torch.float64)
    torch.testing.assert_close(ratio, ratio[0, 0].expand(3, 6))
    odd = module._bump(5)
    assert odd[:2].norm() == pytest.approx(odd[2:].norm().item())


@NORMS
@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (3, 9), (28, 28)])
def test_any_size(norm, shape):
    images = torch.rand(3, 2, *shape)
    points = recorded(images, norm, eps=0.05, queries=12)
    for point in points:
        assert BALLS[norm].distance(images, point).max() <= 0.05 * (1 + 1e-6)


def test_no_gradient_is_computed():
    class Model(nn.Module):
        def forward(self, points):
            assert not torch.is_grad_enabled() and not points.requires_grad
            return points.mean((2, 3))

    square(Model(), torch.rand(4, 3, 5, 5), torch.zeros(4).long(), queries=5)


def test_zero_queries_return_the_images():
    model, images, labels = victim()
    assert torch.equal(square(model, images, labels, queries=0), images)
