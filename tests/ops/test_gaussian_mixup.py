"""gaussian_mixup against its reference implementation, and its contracts."""

import math

import pytest
import torch
from helpers.op_inputs import LAYOUTS, MEAN, STATE, STD, channel_options, mixing, random_images
from scipy import stats

from sprout_fast import gaussian_mixup, reference
from sprout_fast.reference.gaussian_mixup import image_noise


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("noise", ["marginal", "paired"])
@pytest.mark.parametrize("shape", [(5, 3, 7, 9), (4, 1, 5, 5), (2, 3, 40, 41), (3, 16, 6, 11)])
def test_equals_reference(layout, noise, shape):
    x = random_images(shape)
    partner, lam = mixing(shape[0])
    options = channel_options(shape[1]) | {"noise": noise}
    actual = gaussian_mixup(LAYOUTS[layout](x), partner, lam, STATE, **options)
    expected = reference.gaussian_mixup(x, partner, lam, STATE, **options, dtype=torch.float64)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    # Outputs reach about 6, where the spacing of float32 is 4.8e-7; noise adds a few ulps.
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("noise", ["marginal", "paired"])
def test_lam_weights_the_image_itself(noise):
    """lam = 1 gives the image itself, lam = 0 its partner, and 0.25 a quarter of the image."""
    x = random_images((4, 3, 5, 5))
    partner = torch.tensor([1, 2, 3, 0])
    options = dict(mean=MEAN, std=STD, noise=noise)
    own = gaussian_mixup(x, None, None, STATE, sigma=0.0, mean=MEAN, std=STD)
    for lam in (1.0, 0.0, 0.25):
        mixed = gaussian_mixup(x, partner, torch.tensor([lam]), STATE, sigma=0.0, **options)
        torch.testing.assert_close(mixed, lam * own + (1 - lam) * own[partner])
    # With noise too: lam = 1 is the noisy image, whatever its partner.
    noisy = gaussian_mixup(x, None, None, STATE, **options)
    mixed = gaussian_mixup(x, partner, torch.ones(1), STATE, **options)
    torch.testing.assert_close(mixed, noisy)


@pytest.mark.parametrize("length", [999 * 4, 1001 * 4, 2**14 + 4, 2**16 + 64])
def test_image_across_element_2_to_the_32(length):
    """The upper word of the Philox counter changes in the middle of an image."""
    first_row = 2**32 // length
    assert 0 < 2**32 - first_row * length < length
    state = torch.tensor([5, 7, first_row])
    actual = gaussian_mixup(torch.zeros(1, 1, 1, length), None, None, state, sigma=1.0)
    noise = image_noise(state, actual.shape)
    torch.testing.assert_close(actual.double(), noise, rtol=0, atol=2e-6)


@pytest.mark.parametrize("image_dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_as_good_as_pytorch(image_dtype, dtype):
    """The error against float64 is at most twice that of PyTorch's operations rounded to dtype."""
    x = random_images((6, 3, 16, 16), image_dtype)
    partner, lam = mixing(6)
    options = dict(sigma=0.1, mean=MEAN, std=STD)
    exact = reference.gaussian_mixup(x, partner, lam, STATE, **options, dtype=torch.float64)
    actual = gaussian_mixup(x, partner, lam, STATE, **options, dtype=dtype)
    unit = x.float() / 255 if image_dtype == torch.uint8 else x.float()
    weight = lam.view(-1, 1, 1, 1)
    noise = image_noise(STATE, x.shape).float()
    own = (partner == torch.arange(6)).view(-1, 1, 1, 1)
    spread = torch.where(own, 1.0, (weight**2 + (1 - weight) ** 2).sqrt())
    eager = weight * unit + (1 - weight) * unit[partner] + 0.1 * spread * noise
    eager = (eager - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)
    eager = eager.to(dtype)
    assert actual.dtype == dtype
    # The baseline is given exact noise, whose polynomials cost the op a few ulps of float32.
    slack = 1e-6
    assert (actual - exact).abs().max() <= 2 * (eager - exact).abs().max() + slack
    assert (actual - exact).abs().mean() <= 2 * (eager - exact).abs().mean() + slack


def test_float64():
    x = random_images((3, 3, 5, 7), torch.float64)
    partner, lam = mixing(3)
    actual = gaussian_mixup(x, partner, lam, STATE, dtype=torch.float64)
    expected = reference.gaussian_mixup(x, partner, lam, STATE, dtype=torch.float64)
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-14)


def test_noise_and_mixup_can_be_disabled():
    x = random_images((4, 3, 8, 8))
    plain = gaussian_mixup(x, None, None, STATE, sigma=0, mean=MEAN, std=STD)
    mean, std = torch.tensor(MEAN).view(-1, 1, 1), torch.tensor(STD).view(-1, 1, 1)
    torch.testing.assert_close(plain, (x / 255 - mean) / std, rtol=0, atol=1e-6)
    partner, lam = mixing(4)
    mixed = gaussian_mixup(x, partner, lam, STATE, sigma=0)
    weight = lam.view(-1, 1, 1, 1)
    torch.testing.assert_close(mixed, (weight * x + (1 - weight) * x[partner]) / 255)
    noisy = gaussian_mixup(x, None, None, STATE, sigma=0.1)
    assert 0.09 < (noisy - x / 255).std() < 0.11


def test_marginal_spread():
    """The noise has standard deviation sigma sqrt(lam^2 + (1-lam)^2), or sigma with itself."""
    x = torch.zeros(3, 3, 128, 128)
    partner, lam = torch.tensor([1, 2, 2]), torch.tensor([0.3, 0.5, 0.5])
    out = gaussian_mixup(x, partner, lam, STATE, sigma=0.2)
    for i, factor in enumerate([math.hypot(0.3, 0.7), math.hypot(0.5, 0.5), 1.0]):
        n = out[i].numel()
        # 5 standard errors of a standard deviation.
        assert abs(out[i].std() / (0.2 * factor) - 1) < 5 / math.sqrt(2 * n)


def test_paired_noise_belongs_to_the_image():
    x = torch.zeros(2, 3, 6, 6)
    own = gaussian_mixup(x, None, None, STATE, sigma=1.0)
    lam = torch.tensor([0.25])
    mixed = gaussian_mixup(x, torch.tensor([1, 0]), lam, STATE, sigma=1.0, noise="paired")
    torch.testing.assert_close(mixed, 0.25 * own + 0.75 * own.flip(0))


def test_noise_is_normal():
    """Kolmogorov-Smirnov, moments, tails to 5 sigma, no correlation between elements of a call.

    Seeds are fixed. With others, the false-alarm rate is 1e-4, and 6e-7 for each of the rest.
    """
    x = torch.zeros(64, 3, 256, 256)
    n = gaussian_mixup(x, None, None, STATE, sigma=1.0)
    flat = n.permute(0, 2, 3, 1).flatten()
    assert stats.kstest(flat[:200_000].double().numpy(), "norm").pvalue > 1e-4
    count = flat.numel()  # 12.6 million, of which 3.6 are expected above 5 sigma
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        error = flat.double().pow(power).mean() - moment
        assert abs(error) < 5 * math.sqrt(variance / count), power
    for sigma in (3, 4, 4.5, 5):
        for tail in ((flat > sigma).sum(), (flat < -sigma).sum()):
            assert stats.binomtest(int(tail), count, stats.norm.sf(sigma)).pvalue > 6e-7, sigma
    assert 5 < flat.abs().max() < 7
    later = gaussian_mixup(x, None, None, STATE + torch.tensor([0, 1, 0]), sigma=1.0)
    pairs = {f"elements {lag} apart": (flat[:-lag], flat[lag:]) for lag in (1, 2, 3, 4, 5, 768)}
    pairs["channels"] = n[:, 0], n[:, 2]
    pairs["images"] = n[0], n[1]
    pairs["images far apart"] = n[:32], n[32:]
    pairs["steps"] = n, later
    for name, (a, b) in pairs.items():
        bound = 5 / math.sqrt(a.numel())
        assert abs((a * b).double().mean()) < bound, name
        # Nor of their squares, as if a Box-Muller radius were used twice.
        assert abs(((a**2 - 1) * (b**2 - 1) / 2).double().mean()) < bound, name


def test_ranks_draw_the_numbers_of_one_rank():
    """Two ranks with 2 rows of 27 elements each (not a multiple of 4), and one with 4 rows."""
    x = random_images((4, 3, 3, 3))
    whole = gaussian_mixup(x, None, None, torch.tensor([5, 1, 0]))
    parts = [
        gaussian_mixup(x[2 * r : 2 * r + 2], None, None, torch.tensor([5, 1, 2 * r]))
        for r in range(2)
    ]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("side", [272, 273])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_large_batches_equal_single_images(side, memory_format, sigma):
    """From 16 MiB on, without noise, the CPU kernel stores around the caches where it can.

    With an odd side, images begin at elements that are not multiples of four.
    """
    x = random_images((20, 3, side, side)).contiguous(memory_format=memory_format)
    options = dict(sigma=sigma, mean=MEAN, std=STD)
    whole = gaussian_mixup(x, None, None, torch.tensor([5, 1, 0]), **options)
    assert whole.nbytes >= 2**24
    for i in (0, 1, 2, 3, 19):
        one = gaussian_mixup(x[i : i + 1], None, None, torch.tensor([5, 1, i]), **options)
        assert torch.equal(whole[i : i + 1], one)


def test_does_not_depend_on_threads():
    x = random_images((5, 3, 37, 41))
    partner, lam = mixing(5)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = gaussian_mixup(x, partner, lam, STATE)
        torch.set_num_threads(2)
        assert torch.equal(one, gaussian_mixup(x, partner, lam, STATE))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("noise", ["marginal", "paired"])
def test_gradient(noise):
    x = random_images((4, 2, 3, 5), torch.float64).requires_grad_()
    partner, lam = mixing(4)

    def f(x):
        return gaussian_mixup(
            x, partner, lam, STATE, std=[0.2, 0.3], noise=noise, dtype=torch.float64
        )

    assert torch.autograd.gradcheck(f, (x,))
    with pytest.raises(RuntimeError, match="gaussian_mixup has no second derivative"):
        (g,) = torch.autograd.grad(f(x).square().sum(), x, create_graph=True)
        g.sum().backward()


@pytest.mark.parametrize("image_dtype", [torch.float32, torch.bfloat16])
def test_gradient_of_lower_precision(image_dtype):
    x = random_images((4, 3, 16, 16), image_dtype).requires_grad_()
    partner, lam = mixing(4)
    weights = torch.randn(4, 3, 16, 16)
    (gaussian_mixup(x, partner, lam, STATE, std=STD) * weights).sum().backward()
    exact = x.detach().double().requires_grad_()
    out = reference.gaussian_mixup(exact, partner, lam, STATE, std=STD, dtype=torch.float64)
    (out * weights).sum().backward()
    tolerance = 1e-5 if image_dtype == torch.float32 else 2**-7
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("channels", [1, 2, 3, 16])
def test_gradient_of_any_layout(channels):
    """The incoming gradient of a network that is not channels-last is not copied on CPU."""
    x = random_images((5, channels, 21, 33), torch.float32).requires_grad_()
    partner, lam = mixing(5)
    y = gaussian_mixup(x, partner, lam, STATE, std=[0.2 + 0.1 * c for c in range(channels)])
    grad = torch.randn(y.shape)
    found = [
        torch.autograd.grad(y, x, LAYOUTS[layout](grad), retain_graph=True)[0] for layout in LAYOUTS
    ]
    assert len(found) > 2
    for other in found:
        assert torch.equal(found[0], other)


def test_opcheck():
    x = random_images((4, 3, 6, 6), torch.float32).requires_grad_()
    partner, lam = mixing(4)
    op = torch.ops.sprout_fast.gaussian_mixup.default
    for images, p, w in ((x, partner, lam), (random_images((2, 3, 5, 5)), None, None)):
        arguments = (images, p, w, STATE, [0.1], MEAN, STD, "marginal", torch.bfloat16)
        torch.library.opcheck(op, arguments)


def test_compiles_to_one_graph():
    x = random_images((4, 3, 8, 8))
    partner, lam = mixing(4)
    f = torch.compile(
        lambda x: gaussian_mixup(x, partner, lam, STATE, mean=MEAN, std=STD).relu(), fullgraph=True
    )
    eager = gaussian_mixup(x, partner, lam, STATE, mean=MEAN, std=STD).relu()
    torch.testing.assert_close(f(x), eager)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4), (1, 1, 1, 1)])
def test_small_and_empty(shape):
    assert gaussian_mixup(random_images(shape), None, None, STATE).shape == shape


X = torch.zeros(2, 3, 4, 4)
PARTNER, LAM = torch.tensor([1, 0]), torch.tensor([0.5])
WRONG = {
    "images must be [B, C, H, W]": dict(images=torch.zeros(3, 4, 4)),
    "images must be [B, C, H, W], got None": dict(images=None),
    "images must be uint8": dict(images=torch.zeros(2, 3, 4, 4, dtype=torch.int32)),
    "1 to 16 channels": dict(images=torch.zeros(2, 17, 4, 4)),
    "given together": dict(lam=None),
    "partner must be int64": dict(partner=torch.tensor([1, 0], dtype=torch.int32)),
    "partner must be in [0, 2), got 2 at index 1": dict(partner=torch.tensor([0, 2])),
    "lam must be float32 [2] or [1]": dict(lam=torch.tensor([0.5, 0.5, 0.5])),
    "lam must be in [0, 1], got 1e+30": dict(lam=torch.tensor([1e30])),
    "lam must be in [0, 1], got nan": dict(lam=torch.tensor([torch.nan])),
    "lam must be on the device of images (cpu), got meta": dict(lam=LAM.to("meta")),
    "rng_state must be int64 [3]": dict(rng_state=torch.tensor([0, 0])),
    "sigma must be one number or one per channel, got 'much'": dict(sigma="much"),
    "sigma must be one number or one per channel (3), got 2": dict(sigma=[0.1, 0.2]),
    "sigma must be at least 0": dict(sigma=-0.1),
    "sigma must be finite": dict(sigma=torch.inf),
    "std must be finite and above 0, got 0": dict(std=[1.0, 0.0, 1.0]),
    "noise must be 'marginal' or 'paired', got 'both'": dict(noise="both"),
    "dtype must be float32": dict(dtype=torch.int64),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments_are_named(message):
    arguments = dict(images=X, partner=PARTNER, lam=LAM, rng_state=STATE) | WRONG[message]
    with pytest.raises((RuntimeError, ValueError)) as error:
        gaussian_mixup(**arguments)
    assert "sprout_fast::gaussian_mixup: " in str(error.value)
    assert message in str(error.value)
