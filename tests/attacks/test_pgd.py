"""PGD against a plain loop and other libraries, its exact projection, and the model's state."""

import copy
import typing
from functools import partial

import foolbox
import pytest
import torch
import torch.nn.functional as F
import torchattacks
from helpers.networks import CLASSES, HALF_EPS, Scaled, errs, made_images, trained, victim
from torch import nn

from sprout_fast.attacks import ATTACKS, Attack
from sprout_fast.attacks.apgd import apgd_ce
from sprout_fast.attacks.balls import BALLS, Norm
from sprout_fast.attacks.losses import LOSSES, Loss
from sprout_fast.attacks.pgd import _choose_targets, pgd
from sprout_fast.errors import UserError
from sprout_fast.evaluation import measure_accuracy
from sprout_fast.models import Normalized
from sprout_fast.reference.pgd_step import linf_bounds

# What the literature calls PGD: every image takes all steps, even if misclassified from the start.
last_iterate = partial(pgd, early_stop=False)


def make_model(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Tanh(),
        nn.Dropout(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 5),
    )
    return Normalized(model, [0.4, 0.5, 0.6], [0.2, 0.25, 0.3])


def make_images(batch=4, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(batch, 3, 8, 8, generator=generator, dtype=torch.float64)
    images[:, 0, :2] = 0.0  # pixels on the borders of [0,1] and near them
    images[:, 1, :2] = 1.0
    images[:, 2, :2] = 0.01
    return images.to(dtype), torch.randint(5, (batch,), generator=generator)


def plain_pgd(model, start, images, labels, eps, step_size, steps):
    """Run PGD pixel by pixel; Python's floats are float64."""
    model.eval()
    x = start.clone()
    for _ in range(steps):
        x = x.detach().requires_grad_()
        F.cross_entropy(model(x), labels).backward()
        moved = []
        for value, slope, origin in zip(
            x.flatten().tolist(), x.grad.flatten().tolist(), images.flatten().tolist(), strict=True
        ):
            value += step_size * ((slope > 0) - (slope < 0))
            value = max(origin - eps, min(origin + eps, value))
            moved.append(max(0.0, min(1.0, value)))
        x = torch.tensor(moved, dtype=torch.float64).view_as(images)
    model.zero_grad(set_to_none=True)
    return x


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize(("eps", "step_size", "steps"), [(0.03, 0.01, 5), (0.1, 0.3, 3)])
def test_equals_a_plain_loop_in_float64(eps, step_size, steps, random_start):
    model = make_model().double()
    images, labels = make_images(dtype=torch.float64)
    options = {"eps": eps, "step_size": step_size, "random_start": random_start, "seed": 3}
    start = last_iterate(model, images, labels, steps=0, **options)
    assert torch.equal(start, images) != random_start
    expected = plain_pgd(model, start, images, labels, eps, step_size, steps)
    got = last_iterate(model, images, labels, steps=steps, **options)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("eps", [8 / 255, 0.03, 0.3, 1e-3, 1e-8, 1e-40, 0.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ball_is_exact(eps, dtype):
    edges = [0.0, 1.0, 0.5, eps, 1 - eps, 1e-30, 1e-44, 2.0**-24, 1 - 2.0**-24]
    images = torch.cat(
        [
            torch.tensor(edges, dtype=torch.float64),
            torch.arange(256, dtype=torch.float64) / 255,
            torch.rand(20000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        ]
    ).clamp(0, 1)
    images = images.to(dtype)
    lower, upper = linf_bounds(images, eps)
    for bound in (lower, upper):
        assert bound.dtype == dtype
        assert bound.min() >= 0 and bound.max() <= 1
        assert (bound.double() - images.double()).abs().max().item() <= eps
    assert (lower <= images).all() and (images <= upper).all()
    if dtype == torch.float64:  # differences are rounded, so the widest bound is not known
        return
    # The bounds are as wide as possible: two representable numbers further is outside [0,1] or the
    # ball, whose eps is rounded down to the dtype.
    radius = torch.tensor(eps, dtype=dtype)
    if radius.item() > eps:
        radius = torch.nextafter(radius, torch.tensor(0, dtype=dtype))
    for bound, outwards in ((lower, -1.0), (upper, 2.0)):
        outside = bound
        for _ in range(2):
            outside = torch.nextafter(outside, torch.full_like(outside, outwards))
        beyond = (outside.double() - images.double()).abs() > radius.double()
        assert (beyond | (outside < 0) | (outside > 1)).all()


@pytest.mark.parametrize("eps", [8 / 255, 0.03])
def test_float32_results_stay_in_the_ball_and_the_box(eps):
    model = make_model()
    images, labels = make_images(16)
    got = last_iterate(model, images, labels, eps=eps, step_size=eps / 3, steps=4)
    assert got.dtype == torch.float32 and not got.requires_grad
    distance = (got.double() - images.double()).abs()
    assert distance.max().item() <= eps
    assert distance.max().item() > 0.999 * eps  # the ball is used up to its border
    assert (got - images).abs().max() <= eps  # as users measure it, in float32
    assert got.min() == 0 and got.max() == 1


def test_a_linear_model_is_attacked_up_to_its_worst_corner():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    images, labels = make_images()
    labels %= 2
    got = last_iterate(model, images, labels, eps=0.05, step_size=0.03, steps=4)
    toward = model[1].weight[1 - labels] - model[1].weight[labels]
    lower, upper = linf_bounds(images, 0.05)
    worst = torch.where(toward.view_as(images) > 0, upper, lower)
    assert torch.equal(got, worst)


def test_the_models_state_is_restored():
    model = make_model().train()
    model.model[3].eval()
    model.model[0].weight.requires_grad_(False)
    model.model[6].bias.grad = torch.full((5,), 7.0)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    images, labels = make_images()
    images.requires_grad_()

    def look():
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        assert list(grads) == ["model.6.bias"] and (grads["model.6.bias"] == 7).all()
        assert images.grad is None
        assert [m.training for m in model.model] == [True] * 3 + [False] + [True] * 3
        flags = [n for n, p in model.named_parameters() if not p.requires_grad]
        assert flags == ["model.0.weight"]
        for key, value in model.state_dict().items():  # BatchNorm's statistics too
            assert torch.equal(value, state[key]), key

    got = last_iterate(model, images, labels, steps=2)
    assert got.grad_fn is None and not got.requires_grad
    look()
    with pytest.raises(RuntimeError):  # also after an exception
        last_iterate(model, images.detach()[:, :, :0], labels, steps=2)
    look()


def test_it_runs_in_eval_mode_without_parameter_gradients():
    model = make_model()
    modes = []

    def look(module, *_):
        modes.append(module.training or any(p.requires_grad for p in model.parameters()))

    model.model[3].register_forward_hook(look)
    images, labels = make_images()
    first = last_iterate(model.train(), images, labels, steps=2)
    assert torch.equal(first, last_iterate(model.eval(), images, labels, steps=2))
    assert modes and not any(modes)


def test_no_steps_and_no_random_start_return_the_images():
    images, labels = make_images()
    got = last_iterate(make_model(), images, labels, steps=0, random_start=False)
    assert torch.equal(got, images)
    got.zero_()
    assert images.max() == 1  # a copy


def test_images_do_not_influence_each_other():
    model = make_model()
    images, labels = make_images()
    together = last_iterate(model, images, labels, steps=3, random_start=False)
    for i in range(len(images)):
        alone = last_iterate(
            model, images[i : i + 1], labels[i : i + 1], steps=3, random_start=False
        )
        # A sign may flip only where the gradient is all but zero.
        assert (alone != together[i : i + 1]).float().mean() < 0.02


def test_random_numbers_are_an_argument():
    model = make_model()
    images, labels = make_images()
    before = torch.random.get_rng_state()

    def attack(**options):
        return last_iterate(model, images, labels, steps=2, **options)

    assert torch.equal(attack(seed=5), attack(seed=5))
    assert not torch.equal(attack(seed=5), attack(seed=6))
    generator = torch.Generator().manual_seed(5)
    first, second = attack(generator=generator), attack(generator=generator)
    assert torch.equal(first, attack(seed=5))
    assert not torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_random_start_is_uniform_in_the_ball():
    images = torch.full((8, 3, 32, 32), 0.5)
    labels = torch.zeros(8, dtype=torch.int64)
    start = last_iterate(nn.Flatten(), images, labels, eps=0.1, steps=0) - images
    expected = torch.linspace(-0.1, 0.1, start.numel())
    # Kolmogorov-Smirnov: 0.02 * 0.2 of 24,576 draws has a false alarm rate under 1e-8.
    assert (start.flatten().sort().values - expected).abs().max() < 0.02 * 0.2


@pytest.mark.parametrize("context", ["no_grad", "inference_mode", "autocast"])
def test_the_callers_context_changes_nothing(context):
    model = make_model()
    images, labels = make_images()
    expected = last_iterate(model, images, labels, steps=3)
    contexts = {
        "no_grad": torch.no_grad(),
        "inference_mode": torch.inference_mode(),
        "autocast": torch.autocast("cpu", dtype=torch.bfloat16),
    }
    with contexts[context]:
        inside_images, inside_labels = make_images()
        got = last_iterate(model, inside_images, inside_labels, steps=3)
    assert torch.equal(got, expected)


def test_memory_format_is_kept():
    images, labels = make_images()
    model = make_model()
    got = last_iterate(model, images.to(memory_format=torch.channels_last), labels, steps=2)
    assert got.is_contiguous(memory_format=torch.channels_last)
    # The start is the same; steps may differ where a gradient is all but zero.
    plain = last_iterate(model, images, labels, steps=2)
    assert (got != plain).float().mean() < 0.02


def test_pixels_without_a_gradient_do_not_move():
    class Partial(nn.Module):
        passes = 0

        def forward(self, images):
            self.passes += 1
            logits = images.mean(dim=(2, 3))
            bad = images[:, :1, 0, 0] * float("nan")  # one pixel with a gradient of NaN
            # Logits that are NaN from the start are refused.
            finite = self.finite or self.passes == 1
            return logits + torch.nan_to_num(bad) if finite else logits + bad

    images, labels = make_images()
    labels %= 3
    last = []
    for steps, finite in ((2, True), (1, True), (2, False)):
        model = Partial()
        model.finite = finite
        last.append(last_iterate(model, images, labels, steps=steps, random_start=False))
        assert torch.isfinite(last[-1]).all() and last[-1].min() >= 0 and last[-1].max() <= 1
    assert torch.equal(last[2], last[1])  # a NaN loss changes nothing


def test_empty_batch():
    got = last_iterate(make_model(), torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.int64))
    assert got.shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, TypeError, "uint8"),
        ({"images": torch.zeros(2, 3, 8, 8, dtype=torch.float16)}, TypeError, "float16"),
        ({"images": torch.full((2, 3, 8, 8), -0.5)}, ValueError, r"expected \[0,1\]"),
        ({"images": torch.full((2, 3, 8, 8), 1.1)}, ValueError, r"expected \[0,1\]"),
        ({"images": torch.full((2, 3, 8, 8), float("nan"))}, ValueError, r"expected \[0,1\]"),
        ({"images": torch.zeros(3, 8, 8)}, ValueError, r"\[B,C,H,W\]"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, ValueError, r"\[B,C,H,W\] and \[B\]"),
        ({"eps": -0.1}, ValueError, "eps"),
        ({"step_size": float("nan")}, ValueError, "step_size"),
        ({"steps": -1}, ValueError, "steps"),
    ],
)
def test_wrong_arguments(change, error, message):
    arguments = {"images": torch.zeros(2, 3, 8, 8), "labels": torch.zeros(2, dtype=torch.int64)}
    with pytest.raises(error, match=message):
        last_iterate(make_model(), **(arguments | change))


def test_attack_lowers_the_accuracy_of_a_trained_model():
    model, images, labels = victim()
    batches = [((255 * images).round().to(torch.uint8), labels)]

    def under(eps):
        attack = Attack("pgd", model, eps=eps, step_size=eps / 4, steps=10)
        return measure_accuracy(model, batches, device="cpu", attack=attack)

    weak, strong = under(1 / 255), under(16 / 255)
    assert weak.clean.top1 > 0.95
    assert strong.attacked.top1 < 0.1
    assert strong.attacked.top1 < weak.attacked.top1 <= weak.clean.top1
    assert strong.attacked_loss > weak.attacked_loss > weak.loss
    # Noise of the same size has hardly any effect.
    noise = Attack("pgd", model, eps=16 / 255, steps=0)
    assert measure_accuracy(model, batches, device="cpu", attack=noise).attacked.top1 > 0.9


def test_bound_attacks_repeat_from_their_seed():
    model = make_model()
    images, labels = make_images()

    def twice(seed):
        attack = Attack("pgd", model, seed=seed, steps=2, early_stop=False)
        return attack(images, labels), attack(images, labels)

    first, again, other = twice(1), twice(1), twice(2)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[0], other[0])
    assert torch.equal(first[0], last_iterate(model, images, labels, steps=2, seed=1))
    assert str(Attack("pgd", model, eps=8 / 255, steps=10)) == "pgd(eps=0.03137, steps=10)"


def test_unknown_attacks_and_options():
    assert ATTACKS["pgd"] is pgd
    with pytest.raises(UserError, match="did you mean pgd"):
        Attack("pdg", make_model())
    with pytest.raises(UserError, match="option of attack pgd.*did you mean step_size"):
        Attack("pgd", make_model(), stepsize=0.1)


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("pgd", "norm", "l3", "norm: got 'l3', expected one of linf, l2, l1"),
        ("pgd", "loss", "margn", "loss: got 'margn'.*did you mean margin?"),
        ("pgd", "target", "likely", "target: got 'likely', expected one of random, least_likely"),
        ("autoattack", "version", "fast", "version: got 'fast', expected one of standard, plus"),
        ("transfer", "norm", "l3", "norm: got 'l3', expected one of linf, l2, l1"),
    ],
)
def test_names_are_checked_when_an_attack_is_constructed(name, option, value, message):
    with pytest.raises(UserError, match=message):
        Attack(name, make_model(), **{option: value})


def test_types_of_options_list_the_registered_names():
    assert typing.get_args(Norm) == tuple(BALLS)
    assert typing.get_args(Loss) == tuple(LOSSES)


@pytest.fixture(scope="module")
def batch():
    """A trained network, and images of which it classifies nearly all correctly."""
    images, labels = made_images(400, seed=0)
    model = trained(False)
    assert errs(model, images, labels).sum() < 20
    return model, images, labels


def success(model, adversarial, labels):
    return errs(model, adversarial, labels).double().mean().item()


def by_library(library, model, images, labels, norm, **options):
    """Run the same attack of another library: 10 steps of eps/4."""
    eps = HALF_EPS[norm]
    if library == "torchattacks":
        kind = {"linf": torchattacks.PGD, "l2": torchattacks.PGDL2}[norm]
        return kind(model, eps=eps, alpha=eps / 4, steps=10, **options)(images, labels)
    kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    attack = kind(abs_stepsize=eps / 4, steps=10, **options)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    return attack.run(wrapped, images, labels, epsilon=eps)


@pytest.mark.parametrize("library", ["foolbox", "torchattacks"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_agrees_with_other_libraries(batch, norm, library):
    model, images, labels = batch
    expected = by_library(library, model, images, labels, norm, random_start=False)
    options = {"norm": norm, "eps": HALF_EPS[norm], "random_start": False}
    got = last_iterate(model, images, labels, **options)
    # Image by image, except where the sign of a gradient of almost 0 differs.
    apart = BALLS[norm].distance(got, expected) > 0.01 * HALF_EPS[norm]
    assert apart.double().mean() < 0.05
    assert 0.2 < success(model, expected, labels) < 0.8
    assert abs(success(model, got, labels) - success(model, expected, labels)) <= 0.01
    dropped = pgd(model, images, labels, **options)
    assert success(model, dropped, labels) >= success(model, expected, labels) - 0.0025


# Not torchattacks' l2, whose starts are closer to the center than uniform ones.
@pytest.mark.parametrize(
    ("norm", "library"), [("linf", "foolbox"), ("linf", "torchattacks"), ("l2", "foolbox")]
)
def test_agrees_with_other_libraries_from_random_starts(batch, norm, library):
    model, images, labels = batch
    torch.manual_seed(0)
    expected = success(model, by_library(library, model, images, labels, norm), labels)
    got = last_iterate(model, images, labels, norm=norm, eps=HALF_EPS[norm])
    assert success(model, got, labels) == pytest.approx(expected, abs=0.01)
    dropped = pgd(model, images, labels, norm=norm, eps=HALF_EPS[norm])
    assert success(model, dropped, labels) >= expected - 0.01


def test_agrees_with_foolbox_on_targets(batch):
    model, images, labels = batch
    target = (labels + 3) % CLASSES
    expected = by_library(
        "foolbox",
        model,
        images,
        foolbox.criteria.TargetedMisclassification(target),
        "linf",
        random_start=False,
    )
    got = last_iterate(
        model, images, labels, eps=HALF_EPS["linf"], random_start=False, target=target
    )
    apart = BALLS["linf"].distance(got, expected) > 1e-6
    assert apart.double().mean() < 0.05
    assert not errs(model, got, target).all() and errs(model, got, target).any()


@pytest.mark.parametrize("target", [None, "random", "least_likely"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("norm", BALLS)
def test_double_precision_stays_inside(batch, norm, loss, target):
    model, images, labels = copy.deepcopy(batch[0]).double(), batch[1][:64].double(), batch[2][:64]
    options = {"norm": norm, "eps": HALF_EPS[norm], "loss": loss, "target": target}
    got = pgd(model, images, labels, **options)
    assert got.dtype == torch.float64
    assert (BALLS[norm].distance(got, images) <= HALF_EPS[norm]).all()
    assert got.min() >= 0 and got.max() <= 1
    if target is None:
        assert success(model, got, labels) > success(model, images, labels) + 0.2


class Passes:
    """Number of images in a model's forward and backward passes, recorded by hooks."""

    def __init__(self, model):
        self.forward, self.backward = [], []
        self.handles = [
            model.register_forward_hook(lambda _, inputs, __: self.forward.append(len(inputs[0]))),
            model.register_full_backward_hook(
                lambda _, __, gradients: self.backward.append(len(gradients[0]))
            ),
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()


@pytest.mark.parametrize("target", [None, "random"])
@pytest.mark.parametrize("norm", BALLS)
def test_only_active_images_go_through_the_model(batch, norm, target):
    model, images, labels = batch
    steps, options = 6, {"norm": norm, "eps": HALF_EPS[norm], "target": target, "loss": "margin"}
    # Each image before each step, and whether it is correctly classified, without early stopping.
    path = [last_iterate(model, images, labels, steps=step, **options) for step in range(steps + 1)]
    right = torch.stack([~errs(model, points, labels) for points in path[:-1]])
    active = right.long().cumprod(0).sum(1).tolist()
    counts = [len(images), *active[:-1]]
    assert counts[-1] < counts[0] and active[-1] > 0
    with Passes(model) as passes:
        got = pgd(model, images, labels, steps=steps, **options)
    shown = [1] if target == "random" else []  # to find the number of classes
    assert passes.forward == [*shown, *counts]
    assert passes.backward == counts
    # The step before which an image is misclassified, or the last one.
    dropped_at = right.long().cumprod(0).sum(0)
    expected = torch.stack(path)[dropped_at, torch.arange(len(images))]
    # Smaller batches round differently, which may flip the sign of a gradient of almost 0.
    assert (BALLS[norm].distance(got, expected) > 0.01 * HALF_EPS[norm]).double().mean() < 0.05

    # Before another restart, a pass checks the last iterates.
    with Passes(model) as passes:
        pgd(model, images, labels, steps=steps, restarts=2, **options)
    first, second = passes.forward[: len(shown) + steps + 1], passes.forward[steps + 1 :]
    assert first[len(shown) :] == [*counts, active[-1]]
    assert second[len(shown)] == 1 if shown else second[0] <= active[-1]
    assert len(passes.backward) == 2 * steps and passes.backward[steps] < active[-1]
    with Passes(model) as passes:
        last_iterate(model, images, labels, steps=steps, **options)
    assert passes.backward == [len(images)] * steps


def test_an_attack_ends_when_all_images_are_misclassified(batch):
    model, images, labels = batch
    with Passes(model) as passes:
        got = pgd(model, images, labels, eps=0.3, steps=50, restarts=3)
    assert errs(model, got, labels).all()
    assert len(passes.forward) < 20


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize("target", [None, "random"])
def test_restarts(batch, early_stop, target):
    model, images, labels = batch
    options = {
        "eps": HALF_EPS["linf"],
        "steps": 2,
        "target": target,
        "early_stop": early_stop,
    }
    results = [pgd(model, images, labels, restarts=n, seed=4, **options) for n in (1, 2, 3, 4)]
    misclassified = torch.stack([errs(model, points, labels) for points in results])
    assert (misclassified[:-1] <= misclassified[1:]).all()
    assert misclassified[0].sum() < misclassified[-1].sum()
    again = pgd(model, images, labels, restarts=4, seed=4, **options)
    assert torch.equal(results[-1], again)
    if early_stop:
        return
    # Separate runs from one generator: the first that succeeds, else the last.
    generator = torch.Generator().manual_seed(4)
    runs = [pgd(model, images, labels, generator=generator, **options) for _ in range(3)]
    expected = runs[2]
    for run in (runs[1], runs[0]):
        expected = torch.where(errs(model, run, labels).view(-1, 1, 1, 1), run, expected)
    apart = BALLS["linf"].distance(results[2], expected) > 1e-6
    assert apart.double().mean() < 0.05


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_losses_that_do_not_depend_on_the_scale_of_logits(batch, factor):
    model, images, labels = batch
    scaled = Scaled(model, factor)
    options = {"eps": HALF_EPS["linf"], "random_start": False}
    for loss in ("dlr", "rescaled_ce", "margin"):
        plain = success(model, pgd(model, images, labels, loss=loss, **options), labels)
        got = success(scaled, pgd(scaled, images, labels, loss=loss, **options), labels)
        assert plain > 0.3 and abs(got - plain) <= 0.01, loss
    if factor > 1:  # the gradient of cross entropy is 0 in float32, so the model looks robust
        got = success(scaled, pgd(scaled, images, labels, **options), labels)
        assert got < success(model, pgd(model, images, labels, **options), labels) - 0.2


def test_random_targets_are_uniform_among_the_others():
    model, images = nn.Flatten(), torch.zeros(30_000, 5, 1, 1)
    labels = torch.arange(30_000) % 5
    generator = torch.Generator().manual_seed(0)
    chosen = _choose_targets(model, images, labels, "random", generator)
    for label in range(5):
        counts = chosen[labels == label].bincount(minlength=5)
        assert counts[label] == 0
        # 6000 draws of 4 classes: five standard deviations.
        assert (counts.sum() == 6000) and (counts - 1500).abs().sort().values[:4].max() < 168


def test_least_likely_targets():
    images = torch.tensor([[3.0, 1, 2], [1, 2, 3]]).view(2, 3, 1, 1)
    labels = torch.tensor([0, 0])  # the second image's label itself has the smallest logit
    chosen = _choose_targets(nn.Flatten(), images, labels, "least_likely", None)
    assert chosen.tolist() == [1, 1]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("count", [0, 1])
def test_small_batches(batch, loss, count):
    model, images, labels = batch
    for norm in BALLS:
        options = {"norm": norm, "loss": loss, "target": "random", "restarts": 2}
        got = pgd(model, images[:count], labels[:count], **options)
        assert got.shape == images[:count].shape


def test_two_classes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    images, _ = made_images(50, seed=0)
    labels = model(images).argmax(1)
    for loss in ("ce", "rescaled_ce", "margin"):
        for target in (None, "random", "least_likely"):
            got = pgd(model, images, labels, loss=loss, eps=0.3, target=target)
            assert errs(model, got, labels).all()
    with pytest.raises(ValueError, match="dlr: got 2 classes, expected at least 3"):
        pgd(model, images, labels, loss="dlr")
    with pytest.raises(ValueError, match=r"got outputs \[1, 1\] for 1 image,"):
        one = nn.Sequential(nn.Flatten(), nn.Linear(192, 1))
        pgd(one, images, torch.zeros(50, dtype=torch.int64), target="random")


def test_a_network_that_computes_in_float16_keeps_small_gradients():
    class Half(nn.Module):
        def forward(self, images):
            faint = images.half().flatten(1) * 2.0**-20
            return faint.float() * 2.0**-6  # a gradient of 2^-27 underflows on its way back

    images = torch.full((1, 2, 1, 1), 0.5)
    got = last_iterate(Half(), images, torch.tensor([0]), eps=0.25, steps=5, random_start=False)
    assert got.flatten().tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"norm": "l3"}, UserError, "norm: got 'l3', expected one of linf, l2, l1"),
        ({"loss": "mse"}, UserError, "loss: got 'mse'"),
        ({"target": "likely"}, UserError, "target: got 'likely', expected one of random, least"),
        (
            {"target": torch.tensor([1, 0])},
            ValueError,
            r"the label itself for 1 .*image 1: class 0",
        ),
        ({"target": torch.tensor([1])}, ValueError, r"target: got \[1\], expected \[2\]"),
        (
            {"target": torch.tensor([1.0, 1.0])},
            TypeError,
            "target: got torch.float32, expected int64",
        ),
        ({"restarts": 0}, ValueError, "restarts: got 0, expected an int >= 1"),
        ({"restarts": 2, "random_start": False}, ValueError, "would all be the same"),
    ],
)
def test_wrong_options(change, error, message):
    images, labels = torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(error, match=message):
        pgd(make_model(), images, labels, **change)


class FlippedPixels(nn.Module):
    """Reverses the input gradient at 2 of 5 elements, drawn in each call."""

    def __init__(self, model):
        super().__init__()
        self.model, self.calls = model, 0
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, images):
        self.calls += 1
        flipped = torch.rand(images.shape, generator=self.generator) < 0.4
        return self.model(torch.where(flipped, 2 * images.detach() - images, images))


@pytest.mark.parametrize("norm", ["linf", "l1"])
@pytest.mark.parametrize("attack", [last_iterate, apgd_ce], ids=["pgd", "apgd"])
def test_expectation_over_transformation_helps_against_random_models(attack, norm):
    images, labels = made_images(60)
    eps = {"linf": 0.03, "l1": 3}[norm]

    def accuracy(eot_iter):
        model = FlippedPixels(trained(adversarially=False))
        found = attack(model, images, labels, norm=norm, eps=eps, steps=10, eot_iter=eot_iter)
        assert 10 * eot_iter <= model.calls <= 13 * eot_iter + 1
        return (model.model(found).argmax(1) == labels).float().mean().item()

    assert accuracy(20) < accuracy(1) - 0.1
    with pytest.raises(ValueError, match="eot_iter: got 0"):
        accuracy(0)
