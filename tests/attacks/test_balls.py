"""Balls: projections, uniform points, steps."""

import itertools

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch

from sprout_fast.attacks.balls import BALLS
from sprout_fast.errors import UserError

EPSILONS = [0, 1e-9, 1e-5, 1e-3, 8 / 255, 0.5, 2, 50, 1e6]


def draw(shape, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(shape, generator=generator, dtype=dtype)
    images[0] = images[0].round()  # a corner of the box
    return images, torch.randn(shape, generator=generator, dtype=dtype)


def exact_distance(norm, images, others):
    difference = (images.double() - others.double()).flatten(1)
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    return torch.linalg.vector_norm(difference, ord=order, dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 3, 32, 32), (2, 3, 64, 64), (2, 1, 1, 1)])
@pytest.mark.parametrize("norm", BALLS)
def test_everything_stays_in_ball_and_box(norm, shape, dtype):
    ball = BALLS[norm]
    center, noise = draw(shape, dtype)
    generator = torch.Generator().manual_seed(1)
    for eps, scale in itertools.product(EPSILONS, [1e-30, 1e-3, 0.1, 10, 1e30]):
        projected = ball.project((center + scale * noise), center, eps)
        again = ball.project(projected, center, eps)
        assert torch.equal(projected, again), (eps, scale)
        drawn = ball.uniform(center, eps, generator)
        stepped = ball.step(drawn, scale * noise, center, step_size=eps / 3, eps=eps)
        for images in (projected, drawn, stepped):
            assert images.dtype == dtype
            assert (ball.distance(images, center) <= eps).all(), (eps, scale)
            assert images.min() >= 0 and images.max() <= 1
        expected = exact_distance(norm, stepped, center)
        torch.testing.assert_close(ball.distance(stepped, center), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_projections_are_the_nearest_points(norm):
    center, noise = draw((4, 3, 8, 8), torch.float64)
    center = center / 2 + 0.25
    inside = center + 0.001 * noise
    assert torch.equal(BALLS[norm].project(inside, center, 0.5), inside)
    outside = center + 0.02 * noise  # in the box, not in the ball
    got = BALLS[norm].project(outside, center, 0.01) - center
    if norm == "linf":
        expected = (0.02 * noise).clamp(-0.01, 0.01)
    else:
        expected = 0.01 * noise / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("eps", [1e-3, 0.1, 1, 12, 100])
@pytest.mark.parametrize("scale", [1e-3, 0.1, 0.5, 30])
def test_l1_projections_are_the_nearest_points_of_ball_and_box(eps, scale):
    """A shift of every pixel toward the center, found by bisection, as the reference."""
    center, noise = draw((3, 3, 8, 8), torch.float64)
    points = center + scale * noise
    points[1, 0] = center[1, 0]
    got = BALLS["l1"].project(points, center, eps)
    for i in range(len(center)):
        difference = points[i] - center[i]

        def shrunk(shift, i=i, difference=difference):
            moved = difference.sign() * (difference.abs() - shift).clamp_min(0)
            return (center[i] + moved).clamp(0, 1)

        low, high = 0.0, difference.abs().max().item()
        if (shrunk(low) - center[i]).abs().sum() <= eps:
            high = low
        for _ in range(100):
            middle = (low + high) / 2
            if (shrunk(middle) - center[i]).abs().sum() > eps:
                low = middle
            else:
                high = middle
        torch.testing.assert_close(got[i], shrunk(high), rtol=0, atol=1e-12 + 1e-11 * eps)


def test_l1_projections_solve_the_quadratic_program():
    """Least distance programming by nonnegative least squares (Lawson & Hanson, chapter 23)."""
    generator = torch.Generator().manual_seed(3)
    signs = np.array(list(itertools.product([-1, 1], repeat=6)))
    for _ in range(20):
        center = torch.rand(1, 1, 2, 3, generator=generator, dtype=torch.float64)
        points = center + torch.randn(center.shape, generator=generator, dtype=torch.float64)
        eps = 0.5
        x, y = center.flatten().numpy(), points.flatten().numpy()
        # Shortest z with y + z in [0,1] and signs . (y + z - x) <= eps: all of G z >= h.
        unit = np.eye(6)
        g = np.concatenate([unit, -unit, -signs])
        h = np.concatenate([-y, y - 1, signs @ (y - x) - eps])
        target = np.array([0.0] * 6 + [1.0])
        stacked = np.concatenate([g.T, h[None]])
        residual = stacked @ scipy.optimize.nnls(stacked, target)[0] - target
        expected = torch.tensor(y - residual[:6] / residual[6]).view_as(center)
        got = BALLS["l1"].project(points, center, eps)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)


def test_an_l1_step_moves_the_pixels_with_the_largest_gradients_to_the_border():
    center = torch.tensor([0.9, 0.2, 0.5, 0.5]).view(1, 1, 2, 2)
    gradient = torch.tensor([3.0, -2.0, 1.0, -0.5]).view(1, 1, 2, 2)
    moved = BALLS["l1"].step(center, gradient, center, step_size=0.5, eps=1.0)
    torch.testing.assert_close(moved.flatten(), torch.tensor([1.0, 0.0, 0.7, 0.5]))


def test_an_l2_step_has_its_length_for_gradients_of_any_size():
    center, noise = draw((4, 3, 8, 8), torch.float32)
    center = center / 2 + 0.25
    for scale in (1e-42, 1e-30, 1.0, 1e30):
        moved = BALLS["l2"].step(center, scale * noise, center, step_size=0.1, eps=1)
        lengths = BALLS["l2"].distance(moved, center)
        torch.testing.assert_close(lengths, torch.full_like(lengths, 0.1), rtol=1e-5, atol=0)
        cosine = torch.cosine_similarity((moved - center).flatten(1), noise.flatten(1))
        assert cosine.min() > 0.99


@pytest.mark.parametrize("norm", BALLS)
def test_gradients_of_zero_nan_and_infinity(norm):
    center, noise = draw((5, 3, 4, 4), torch.float32)
    center = center / 2 + 0.25
    noise[0] = 0
    noise[1] = torch.nan
    noise[2, 0, 0, 0] = torch.nan
    noise[3] = 0
    noise[3, 0, 0, 0] = torch.inf
    moved = BALLS[norm].step(center, noise, center, step_size=0.1, eps=0.2) - center
    assert moved.isfinite().all()
    assert (moved[:2] == 0).all()
    assert moved[2, 0, 0, 0] == 0 and BALLS[norm].distance(moved, 0 * moved)[2] > 0.09
    assert moved[3, 0, 0, 0] > 0.09 and (moved[3].flatten()[1:] == 0).all()


@pytest.mark.parametrize("norm", BALLS)
def test_empty_batches(norm):
    empty, ball = torch.zeros(0, 3, 8, 8), BALLS[norm]
    assert ball.distance(empty, empty).shape == (0,)
    for images in (
        ball.project(empty, empty, 0.1),
        ball.uniform(empty, 0.1, None),
        ball.step(empty, empty, empty, step_size=0.1, eps=0.1),
    ):
        assert images.shape == empty.shape


def test_uniform_points_of_the_l2_ball():
    center = torch.full((20_000, 3, 2, 2), 0.5, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    offset = (BALLS["l2"].uniform(center, 0.3, generator) - center).flatten(1)
    radius = offset.norm(dim=1)
    # The share of the volume within r is (r/eps)^12; a coordinate of a direction squared is Beta.
    assert scipy.stats.kstest((radius / 0.3) ** 12, "uniform").pvalue > 1e-4
    for k in range(12):
        squared = (offset[:, k] / radius) ** 2
        assert scipy.stats.kstest(squared, scipy.stats.beta(0.5, 5.5).cdf).pvalue > 1e-4
        assert abs((offset[:, k] > 0).double().mean() - 0.5) < 0.02
    correlation = torch.corrcoef(offset.T) - torch.eye(12)
    assert correlation.abs().max() < 0.04


def test_uniform_points_of_the_l1_ball():
    center = torch.full((20_000, 3, 2, 2), 0.5, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    offset = (BALLS["l1"].uniform(center, 0.3, generator) - center).flatten(1)
    radius = offset.abs().sum(1)
    # The share of the volume within r is (r/eps)^12; a coordinate of a direction is Beta.
    assert scipy.stats.kstest((radius / 0.3) ** 12, "uniform").pvalue > 1e-4
    for k in range(12):
        share = offset[:, k].abs() / radius
        assert scipy.stats.kstest(share, scipy.stats.beta(1, 11).cdf).pvalue > 1e-4
        assert abs((offset[:, k] > 0).double().mean() - 0.5) < 0.02


@pytest.mark.parametrize("norm", BALLS)
def test_memory_formats_are_kept(norm):
    center, noise = draw((4, 3, 8, 8), torch.float32)
    center = center.to(memory_format=torch.channels_last)
    ball = BALLS[norm]
    for images in (
        ball.project(center + 0.1, center, 0.05),
        ball.uniform(center, 0.1, None),
        ball.step(center, noise, center, step_size=0.1, eps=0.1),
    ):
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_unknown_norms():
    with pytest.raises(UserError, match="norm: got 'l3', expected one of linf, l2, l1"):
        BALLS.look_up("l3")
