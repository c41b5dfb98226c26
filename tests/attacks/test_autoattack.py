"""Properties of AutoAttack's four attacks, and a comparison with the official package."""

import math

import pytest
import torch
from helpers.networks import THIRD_EPS, Scaled, errs, victim
from torch import nn

from sprout_fast.attacks import ATTACKS
from sprout_fast.attacks.balls import BALLS
from sprout_fast.errors import UserError

# Budgets that cost a second or less.
BUDGETS = {
    "apgd_ce": {"steps": 8},
    "apgd_t": {"steps": 6, "target_classes": 2},
    "fab_t": {"steps": 6, "target_classes": 2},
    "fab": {"steps": 4, "restarts": 1},
    "square": {"queries": 60},
}
ALL = pytest.mark.parametrize("name", BUDGETS)
NORMS = pytest.mark.parametrize("norm", BALLS)


def run(name, model, images, labels, **options):
    return ATTACKS[name](model, images, labels, **(BUDGETS[name] | options))


def linear(classes, size=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * size**2, classes)).requires_grad_(False)


def some_images(batch=5, size=4):
    images = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1))
    images[:, 0] = images[:, 0].round()  # on the border of [0,1]
    return images


@ALL
@NORMS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_perturbations_stay_in_the_ball_and_the_box(name, norm, dtype):
    model, images, labels = victim()
    images, eps = images.to(dtype), THIRD_EPS[norm]
    images[::2] = (images[::2] * 2 - 0.5).clamp(0, 1)  # many pixels on the border
    if dtype == torch.float64:
        model = Double(model)
    got = run(name, model, images, labels, norm=norm, eps=eps)
    assert got.dtype == dtype and got.shape == images.shape and not got.requires_grad
    assert got.min() >= 0 and got.max() <= 1
    distance = BALLS[norm].distance(images, got)
    assert distance.max() <= eps * (1 + 1e-6 * (norm != "linf"))
    assert distance.max() > 0.9 * eps
    wrong = errs(model, images, labels)
    assert wrong.any()
    assert torch.equal(got[wrong], images[wrong])  # already misclassified
    assert errs(model, got, labels).sum() > wrong.sum()


@pytest.mark.parametrize("eps", [0.01, 0.5, 12.0])
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_l1_points_stay_in_the_ball_after_any_number_of_steps(eps, steps):
    model, images, labels = victim()
    got = ATTACKS["apgd_ce"](model, images, labels, norm="l1", eps=eps, steps=steps)
    distance = BALLS["l1"].distance(images, got)
    assert 0.5 * eps < distance.max() <= eps * (1 + 1e-6)


class Double(nn.Module):
    """A float32 network with float64 inputs and outputs."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images.float()).double()


@ALL
@NORMS
def test_repeats_from_its_seed(name, norm):
    model, images, labels = victim()
    options = {"norm": norm, "eps": THIRD_EPS[norm]}
    if name in ("fab", "fab_t"):  # their first run draws nothing
        options |= {"restarts": 2, "steps": 3}
    before = torch.random.get_rng_state()
    first, again, other = (
        run(name, model, images[:20], labels[:20], **options, seed=seed) for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert name in ("fab", "fab_t") or not torch.equal(first, other)
    generator = torch.Generator().manual_seed(5)
    given = run(name, model, images[:20], labels[:20], **options, generator=generator)
    assert torch.equal(first, given)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("apgd_ce", {"random_start": False}),
        ("apgd_t", {"random_start": False}),
        ("fab_t", {}),
        ("fab", {"restarts": 1}),
    ],
)
@NORMS
def test_images_do_not_influence_each_other(name, options, norm):
    model, images, labels = victim()
    images, labels = images[:6], labels[:6]
    options = options | {"norm": norm, "eps": THIRD_EPS[norm], "steps": 5}
    together = run(name, model, images, labels, **options)
    for i in range(len(images)):
        alone = run(name, model, images[i : i + 1], labels[i : i + 1], **options)[0]
        # A sign may flip only where the gradient is all but zero.
        assert ((alone - together[i]).abs() > 1e-4).float().mean() < 0.02


@ALL
@NORMS
@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes(name, norm, classes):
    model, images = linear(classes), some_images(20)
    with torch.no_grad():
        labels = model(images).argmax(1)
    got = run(name, model, images, labels, norm=norm, eps={"linf": 0.3, "l2": 1.0, "l1": 3.0}[norm])
    misclassified = errs(model, got, labels)
    assert misclassified.float().mean() > 0.2
    assert got.min() >= 0 and got.max() <= 1


@ALL
@NORMS
@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(name, norm, batch):
    got = run(name, linear(5), some_images(batch), torch.zeros(batch).long(), norm=norm)
    assert got.shape == (batch, 3, 4, 4)


class Quantized(nn.Module):
    def forward(self, images):
        return images.round().mean((2, 3))


class Detached(nn.Module):
    def forward(self, images):
        return images.detach().mean((2, 3))


class NanGradient(nn.Module):
    def forward(self, images):
        logits = images.mean((2, 3))
        return logits + (images[:, :, 0, 0] - 10).sqrt().nan_to_num(0)


class NanLogits(nn.Module):
    """NaN after the first forward pass; a model that gives NaN from the start is refused."""

    def __init__(self):
        super().__init__()
        self.passes = 0

    def forward(self, images):
        self.passes += 1
        logits = images.mean((2, 3))
        largest = logits == logits.amax(1, keepdim=True)
        return torch.where(largest | (self.passes == 1), logits, math.nan)


class Huge(nn.Module):
    def forward(self, images):
        return images.mean((2, 3)) * 1e38


class Tiny(nn.Module):
    def forward(self, images):
        return images.mean((2, 3)) * 1e-38


@ALL
@NORMS
@pytest.mark.parametrize("model", [Quantized, Detached, NanGradient, NanLogits, Huge, Tiny])
def test_models_with_bad_gradients(name, norm, model):
    images = some_images()
    images[:, 0] = 0.9
    got = run(name, model(), images, torch.zeros(len(images)).long(), norm=norm, eps=0.05)
    assert got.isfinite().all() and got.min() >= 0 and got.max() <= 1
    assert BALLS[norm].distance(images, got).max() <= 0.05 * (1 + 1e-6)


@pytest.mark.parametrize("name", ["apgd_t", "fab_t", "fab", "square"])
@NORMS
@pytest.mark.parametrize("scale", [2**-10, 2**10])
def test_the_scale_of_logits_changes_nothing(name, norm, scale):
    model, images, labels = victim()
    images, labels = images[:20], labels[:20]
    options = {"norm": norm, "eps": THIRD_EPS[norm]}
    expected = run(name, model, images, labels, **options)
    got = run(name, Scaled(model, scale), images, labels, **options)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@ALL
def test_the_callers_context_changes_nothing(name):
    model, images, labels = victim()
    expected = run(name, model, images[:10], labels[:10])
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            got = run(name, model, images[:10].clone(), labels[:10].clone())
        assert torch.equal(got, expected)


@ALL
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("norm", "l3", "got 'l3', expected one of linf, l2, l1"),
        ("eps", -0.1, "got -0.1, expected a finite number >= 0"),
        ("eps", math.nan, "got nan, expected a finite number >= 0"),
        ("steps", -1, "got -1, expected an int >= 0"),
        ("queries", -1, "got -1, expected an int >= 0"),
        ("restarts", 0, "got 0, expected an int >= 1"),
        ("target_classes", 0, "got 0, expected an int >= 1"),
        ("loss", "mse", "got 'mse', expected one of ce"),
        ("p_init", 0.0, "got 0.0, expected a number > 0 and <= 1"),
        ("alpha_max", 1.5, "got 1.5, expected a number >= 0 and <= 1"),
        ("eta", 0.9, "got 0.9, expected a finite number >= 1"),
        ("beta", 0, "got 0, expected a number > 0 and <= 1"),
    ],
)
def test_wrong_options(name, option, value, message):
    if option not in ATTACKS[name].__kwdefaults__:
        return
    with pytest.raises((ValueError, UserError), match=f"^({name}: )?{option}: {message}"):
        run(name, linear(5), some_images(), torch.zeros(5).long(), **{option: value})


def official(name, model, norm, eps):
    package = pytest.importorskip("pyautoattack", reason="the official AutoAttack, on PyPI")
    common = {"norm": {"linf": "Linf", "l2": "L2", "l1": "L1"}[norm], "eps": eps, "seed": 0}
    suite = package.AutoAttack(model, version="standard", device="cpu", **common)
    suite.apgd.n_iter_orig = suite.apgd.n_iter = 30
    suite.apgd.n_restarts = 1
    suite.apgd_targeted.n_iter_orig = suite.apgd_targeted.n_iter = 20
    suite.apgd_targeted.n_target_classes = suite.fab.n_target_classes = 3
    suite.fab.n_iter, suite.fab.n_restarts = 20, 1
    suite.fab.targeted = name == "fab_t"
    suite.square.n_queries = 500
    attacks = {"apgd_ce": suite.apgd, "apgd_t": suite.apgd_targeted, "square": suite.square}
    return attacks.get(name, suite.fab)


@pytest.mark.long
@ALL
@NORMS
def test_is_as_strong_as_the_official_package(name, norm):
    model, images, labels = victim()
    eps = THIRD_EPS[norm]
    attack = official(name, model, norm, eps)
    points = attack.perturb(images, labels)
    inside = BALLS[norm].distance(images, points) <= eps * (1 + 1e-5)
    expected = (errs(model, points, labels) & inside).sum()
    budgets = {
        "apgd_ce": {"steps": 30},
        "apgd_t": {"steps": 20, "target_classes": 3},
        "fab_t": {"steps": 20, "target_classes": 3},
        "fab": {"steps": 20},
        "square": {"queries": 500},
    }
    got = errs(model, run(name, model, images, labels, norm=norm, eps=eps, **budgets[name]), labels)
    # Out of 100 images; Square's number varies by two or three with the seed.
    assert got.sum() >= expected - (5 if name == "square" else 1)


@pytest.mark.long
def test_the_l1_version_agrees_with_the_official_package():
    """The whole cascade, with its restarts and larger radii, on the same images."""
    package = pytest.importorskip("pyautoattack", reason="the official AutoAttack, on PyPI")
    model, images, labels = victim()
    suite = package.AutoAttack(model, norm="L1", eps=1.2, seed=0, version="standard", device="cpu")
    suite.square.n_queries, suite.fab.n_iter = 300, 20
    points, _ = suite.run_standard_evaluation(images, labels)
    expected = errs(model, points, labels).sum()
    misclassified = errs(model, images, labels)
    for name, options in (
        ("apgd_ce", {"steps": 100, "restarts": 5}),
        ("apgd_t", {"steps": 100, "target_classes": 5}),
        ("fab_t", {"steps": 20, "target_classes": 9}),
        ("square", {"queries": 300}),
    ):
        left = ~misclassified
        got = run(name, model, images[left], labels[left], norm="l1", eps=1.2, **options)
        misclassified[left] |= errs(model, got, labels[left])
    assert 20 < expected < 80
    assert abs(misclassified.sum() - expected) <= 1
