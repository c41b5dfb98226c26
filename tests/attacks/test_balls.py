"""Balls: projections, uniform points, steps."""

import itertools

import pytest
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
    return difference.abs().amax(1) if norm == "linf" else difference.square().sum(1).sqrt()


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


@pytest.mark.parametrize("norm", BALLS)
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
    with pytest.raises(UserError, match="norm: got 'l1', expected one of linf, l2"):
        BALLS.look_up("l1")
