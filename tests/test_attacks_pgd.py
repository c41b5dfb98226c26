"""PGD against a plain loop, its exact projection, and the model that it borrows."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sprout_fast.attacks import ATTACKS, Attack
from sprout_fast.attacks.pgd import pgd
from sprout_fast.errors import UserError
from sprout_fast.evaluation import evaluate_accuracy
from sprout_fast.models import Normalized
from sprout_fast.reference.pgd_step import linf_bounds

# What the literature calls PGD: no image leaves early, also where the model errs from the start.
last_iterate = partial(pgd, drop_fallen=False)


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


def obvious_pgd(model, start, images, labels, eps, step_size, steps):
    """Pixel by pixel; Python's floats are float64."""
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
    expected = obvious_pgd(model, start, images, labels, eps, step_size, steps)
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
    if dtype == torch.float64:  # where differences round, so the widest bound has no short name
        return
    # As wide as it can be: two representable numbers further is outside the ball, whose eps is
    # rounded down to the dtype, or outside [0,1].
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
    assert distance.max().item() > 0.999 * eps  # and the ball is used
    assert (got - images).abs().max() <= eps  # as a user would measure it, in float32
    assert got.min() == 0 and got.max() == 1


def test_a_linear_model_is_taken_to_its_worst_corner():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    images, labels = make_images()
    labels %= 2
    got = last_iterate(model, images, labels, eps=0.05, step_size=0.03, steps=4)
    towards = model[1].weight[1 - labels] - model[1].weight[labels]
    lower, upper = linf_bounds(images, 0.05)
    worst = torch.where(towards.view_as(images) > 0, upper, lower)
    assert torch.equal(got, worst)


def test_the_model_comes_back_as_it_was():
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
    with pytest.raises(RuntimeError):  # a failing model is given back all the same
        last_iterate(model, images.detach()[:, :, :0], labels, steps=2)
    look()


def test_it_works_in_eval_mode_without_parameter_gradients():
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
        # A sign may turn only where the gradient is all but zero.
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
def test_a_callers_context_changes_nothing(context):
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
    # The start is the same; the steps may differ where a gradient is all but zero.
    plain = last_iterate(model, images, labels, steps=2)
    assert (got != plain).float().mean() < 0.02


def test_pixels_without_a_gradient_stay():
    class Partial(nn.Module):
        def forward(self, images):
            logits = images.mean(dim=(2, 3))
            bad = images[:, :1, 0, 0] * float("nan")  # one pixel with a gradient of NaN
            return logits + torch.nan_to_num(bad) if self.finite else logits + bad

    model = Partial()
    images, labels = make_images()
    labels %= 3
    for model.finite in (True, False):
        got = last_iterate(model, images, labels, steps=2, random_start=False)
        assert torch.isfinite(got).all() and got.min() >= 0 and got.max() <= 1
    assert torch.equal(got, images)  # a NaN loss moves nothing


def test_empty_batch():
    got = last_iterate(make_model(), torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.int64))
    assert got.shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, TypeError, "uint8"),
        ({"images": torch.zeros(2, 3, 8, 8, dtype=torch.float16)}, TypeError, "float16"),
        ({"images": torch.full((2, 3, 8, 8), -0.5)}, ValueError, r"takes \[0,1\]"),
        ({"images": torch.full((2, 3, 8, 8), 1.1)}, ValueError, r"takes \[0,1\]"),
        ({"images": torch.full((2, 3, 8, 8), float("nan"))}, ValueError, r"takes \[0,1\]"),
        ({"images": torch.zeros(3, 8, 8)}, ValueError, r"\[B,C,H,W\]"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, ValueError, r"\[B,C,H,W\] and \[B\]"),
        ({"eps": -0.1}, ValueError, "eps"),
        ({"step_size": float("nan")}, ValueError, "step_size"),
        ({"steps": -1}, ValueError, "steps"),
    ],
)
def test_wrong_arguments(change, error, says):
    arguments = {"images": torch.zeros(2, 3, 8, 8), "labels": torch.zeros(2, dtype=torch.int64)}
    with pytest.raises(error, match=says):
        last_iterate(make_model(), **(arguments | change))


def trained_model():
    """Four classes told apart by a faint pattern: easy, and easy to attack."""
    torch.manual_seed(0)
    patterns = torch.randn(4, 3, 8, 8).sign() * 0.04

    def draw(count, generator):
        labels = torch.randint(4, (count,), generator=generator)
        noise = torch.randn(count, 3, 8, 8, generator=generator) * 0.05
        return (0.5 + patterns[labels] + noise).clamp(0, 1), labels

    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 4))
    model = Normalized(net, [0.5] * 3, [0.25] * 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    for _ in range(60):
        images, labels = draw(64, generator)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    test = [((255 * x).round().to(torch.uint8), y) for x, y in [draw(100, generator)]]
    return model, test


def test_attack_lowers_the_accuracy_of_a_trained_model():
    model, batches = trained_model()

    def under(eps):
        attack = Attack("pgd", model, eps=eps, step_size=eps / 4, steps=10)
        return evaluate_accuracy(model, batches, device="cpu", attack=attack)

    weak, strong = under(1 / 255), under(16 / 255)
    assert weak.clean.top1 > 0.95
    assert strong.attacked.top1 < 0.1
    assert strong.attacked.top1 < weak.attacked.top1 <= weak.clean.top1
    assert strong.attacked_loss > weak.attacked_loss > weak.loss
    # Noise of the same size does next to nothing: it is the gradient that does it.
    noise = Attack("pgd", model, eps=16 / 255, steps=0)
    assert evaluate_accuracy(model, batches, device="cpu", attack=noise).attacked.top1 > 0.9


def test_bound_attacks_repeat_from_their_seed():
    model = make_model()
    images, labels = make_images()

    def twice(seed):
        attack = Attack("pgd", model, seed=seed, steps=2, drop_fallen=False)
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
