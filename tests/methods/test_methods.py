"""Every row of Table 1: its inputs, labels and losses, and its options."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.paths import ROOT
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import SGD

from sprout_fast import MixupTarget
from sprout_fast.errors import UserError
from sprout_fast.methods import METHODS, Method, MethodSetting, build_method
from sprout_fast.methods.bilateral import adversarial_label
from sprout_fast.methods.linf import LinfAttack, cross_entropy_of
from sprout_fast.models import Normalized
from sprout_fast.training.config import TrainConfig
from sprout_fast.training.optim import build_scheduler
from sprout_fast.training.step import OptimizeStep

K, B = 4, 6
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SETTING = MethodSetting(num_classes=K, mean=MEAN, std=STD, seed=5)
ATTACK_FREE = ["natural", "ga", "ls", "ga_ls", "mixup", "cutmix", "sprout"]
LINF = ["pgd_at", "trades", "bilateral", "fast_at"]


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    nhwc = torch.randint(256, (B, 5, 7, 3), dtype=torch.uint8, generator=generator)
    return nhwc.permute(0, 3, 1, 2), torch.tensor([0, 1, 2, 3, 0, 1])


def normalized(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (images - mean) / std


class Recorder(OptimizeStep):
    """The loop's own step on a small network, which records its arguments."""

    def __init__(self, lr: float = 0.05) -> None:
        torch.manual_seed(3)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 15, K)
        )
        self.modes: list[bool] = []  # the network's mode in every pass, attacks included
        model.register_forward_pre_hook(lambda module, _: self.modes.append(module.training))
        optimizer = SGD(model.parameters(), lr=lr)
        network = Normalized(model, MEAN, STD)
        scheduler = build_scheduler(optimizer, warmup_steps=0, total_steps=10**9)
        super().__init__(model, network, optimizer, scheduler, GradScaler("cpu", enabled=False))
        self.seen: list[tuple[Any, Any]] = []
        self.losses: list[float] = []

    def __call__(self, inputs, target, loss) -> Tensor:
        self.seen.append((inputs, target))
        value = super().__call__(inputs, target, loss)
        self.losses.append(value.item())
        return value

    def images(self, index: int = 0) -> Tensor:
        """Return the last batch of step ``index``, back in [0,1]."""
        inputs = self.seen[index][0]
        inputs = inputs if isinstance(inputs, Tensor) else inputs[-1]
        return inputs * torch.tensor(STD).view(1, 3, 1, 1) + torch.tensor(MEAN).view(1, 3, 1, 1)


def step(name: str, **options: Any) -> tuple[Method, Recorder]:
    torch.manual_seed(0)
    method, recorder = build_method(name, SETTING, **options), Recorder()
    method.training_step(recorder, *batch())
    return method, recorder


def inputs_of(method: Method) -> Tensor:
    recorder = Recorder()
    method.training_step(recorder, *batch())
    inputs = recorder.seen[0][0]
    return inputs if isinstance(inputs, Tensor) else inputs[-1]


def equation_4(logits: Tensor, label: Tensor) -> Tensor:
    return -(label * logits.double().log_softmax(1)).sum(1).mean()


def onehot(labels: Tensor) -> Tensor:
    return F.one_hot(labels, K).double()


# ---------------------------------------------------------------- x̃ and ỹ without an attack


def test_natural_uses_the_normalized_images_and_their_labels() -> None:
    _, recorder = step("natural")
    ((inputs, target),) = recorder.seen
    images, labels = batch()
    torch.testing.assert_close(inputs, normalized(images / 255))
    assert torch.equal(target.labels, labels)
    assert target.partner_labels is None and target.lam is None


@pytest.mark.parametrize("name", ["ls", "pgd_at", "sprout"])
def test_methods_with_everything_off_equal_natural(name: str) -> None:
    off = {"ls": {}, "pgd_at": {"eps": 0.0}, "sprout": {"sigma": 0.0, "mixup_alpha": 0.0}}[name]
    natural = step("natural")[1].seen[0][0]
    torch.testing.assert_close(step(name, **off)[1].seen[0][0], natural)


@pytest.mark.parametrize("name", ["ga", "ga_ls", "stable", "sprout"])
def test_noise_has_its_standard_deviation(name: str) -> None:
    options = {"mixup_alpha": 0.0} if name == "sprout" else {}
    _, recorder = step(name, sigma=0.05, **options)
    noise = recorder.images() - batch()[0] / 255
    assert noise.std().item() == pytest.approx(0.05, rel=0.1)  # 630 values: 3 sigma are 8 %
    assert abs(noise.mean().item()) < 0.01


def test_mixup_mixes_images_and_labels_by_one_weight() -> None:
    method, recorder = step("mixup", mixup_alpha=1.0)
    ((_, target),) = recorder.seen
    images, labels = batch()
    lam = target.lam.item()
    assert 0 < lam < 1
    shift = next(r for r in range(1, B) if torch.equal(labels.roll(-r), target.partner_labels))
    mixed = lam * images / 255 + (1 - lam) * images.roll(-shift, 0) / 255
    torch.testing.assert_close(recorder.images(), mixed, atol=1e-5, rtol=1e-5)
    logits = torch.randn(B, K, generator=torch.Generator().manual_seed(0))
    label = lam * onehot(labels) + (1 - lam) * onehot(target.partner_labels)
    torch.testing.assert_close(
        method.loss(logits, target).double(), equation_4(logits, label), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(("name", "alpha"), [("natural", 0.0), ("ga", 0.0), ("ls", 0.3)])
def test_hard_and_smoothed_labels_are_equation_4_in_float32(name: str, alpha: float) -> None:
    method = build_method(name, SETTING, **({"alpha": alpha} if alpha else {}))
    labels = batch()[1]
    logits = torch.randn(B, K, generator=torch.Generator().manual_seed(0)).bfloat16()
    loss = method.loss(logits, MixupTarget(labels))
    assert loss.dtype is torch.float32
    label = (1 - alpha) * onehot(labels) + alpha / K
    torch.testing.assert_close(loss.double(), equation_4(logits, label), rtol=1e-6, atol=0)


# ---------------------------------------------------------------- modules of the ablation


@pytest.mark.parametrize(
    "modules", ["", "ga", "mixup", "dirichlet", "ls", "ga,mixup", "ga,ls", "mixup, dirichlet"]
)
def test_any_subset_of_the_modules(modules: str) -> None:
    method, recorder = step("sprout", modules=modules, alpha=0.2)
    ((_, target),) = recorder.seen
    on = set(modules.replace(" ", "").split(",")) - {""}
    assert (method.mixer.sigma == 0.1) == ("ga" in on)
    assert (target.lam is not None) == ("mixup" in on)
    assert (method.beta is not None) == ("dirichlet" in on) == bool(method.statistics())
    if "dirichlet" not in on:
        logits = torch.randn(B, K, generator=torch.Generator().manual_seed(0))
        labels, alpha = onehot(batch()[1]), 0.2 if "ls" in on else 0.0
        plain = MixupTarget(batch()[1])
        torch.testing.assert_close(
            method.loss(logits, plain).double(),
            equation_4(logits, (1 - alpha) * labels + alpha / K),
            rtol=1e-6,
            atol=0,
        )


def test_dirichlet_with_ls_draws_around_the_uniform_label() -> None:
    method, recorder = step("sprout", modules="dirichlet,ls", alpha=0.2, scale=1e5)
    assert torch.equal(method.beta, torch.full((K,), 1 / K))  # it has not moved
    logits = torch.randn(B, K, generator=torch.Generator().manual_seed(0))
    target = recorder.seen[0][1]
    expected = equation_4(logits, 0.8 * onehot(target.labels) + 0.2 / K)
    # At a scale of 1e5 a draw is its mean within about 1 / sqrt(1e5).
    torch.testing.assert_close(method.loss(logits, target).double(), expected, rtol=0.01, atol=0)


def test_an_unknown_module_is_an_error() -> None:
    with pytest.raises(UserError, match="^method sprout: modules: got gaussian, expected any of"):
        build_method("sprout", SETTING, modules="gaussian,mixup")


# ---------------------------------------------------------------- attacks in training


@pytest.mark.parametrize("name", LINF)
def test_attacked_images_are_in_the_ball_and_in_the_unit_cube(name: str) -> None:
    eps = 0.05
    steps = {} if name == "fast_at" else {"attack_steps": 2}
    _, recorder = step(name, eps=eps, step_size=0.04, **steps)
    images = batch()[0] / 255
    distance = (recorder.images() - images).abs()
    assert 0.5 * eps < distance.max() <= eps + 1e-6
    assert recorder.images().min() >= -1e-6 and recorder.images().max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("name", "attacking", "passes"),
    [("pgd_at", True, 7), ("fast_at", True, 1), ("bilateral", False, 2), ("trades", False, 11)],
)
def test_attacks_see_the_network_in_the_mode_of_their_papers(
    name: str, attacking: bool, passes: int
) -> None:
    _, recorder = step(name)
    trained = 2 if name == "trades" else 1
    assert recorder.modes == [attacking] * passes + [True] * trained
    assert recorder.model.training and all(p.requires_grad for p in recorder.model.parameters())


def test_pgd_increases_the_loss() -> None:
    natural, attacked = step("natural")[1], step("pgd_at", eps=0.1, step_size=0.03)[1]
    assert attacked.losses[0] > natural.losses[0] + 0.05


def check_gradients(objective, expected_of, logits: Tensor) -> None:
    """Check value and gradient with respect to both passes' logits, against float64."""
    leaf, exact = logits.clone().requires_grad_(), logits.double().requires_grad_()
    value, expected = objective((leaf[0], leaf[1])), expected_of(exact)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    value.backward(), expected.backward()
    torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["pgd_at", "fast_at", "bilateral"])
def test_attacks_start_anywhere_in_the_ball(name: str) -> None:
    eps = 0.05
    _, recorder = step(name, eps=eps, step_size=0.0)
    images = batch()[0] / 255
    inside = (images > eps) & (images < 1 - eps)
    start = ((recorder.images() - images) / eps)[inside]
    assert start.std().item() == pytest.approx(3**-0.5, rel=0.1) and start.abs().max() < 1 + 1e-4


def test_an_attack_leaves_its_start_as_it_was() -> None:
    images = batch()[0] / 255
    before = images.clone()
    attack = LinfAttack(0.05, 0.02, 3, training_mode=False)
    attacked = attack(Recorder().network, images, cross_entropy_of(batch()[1]), start=images)
    assert torch.equal(images, before) and not torch.equal(attacked, images)


def test_trades_trains_the_originals_two_terms() -> None:
    method, recorder = step("trades", kl_weight=3.0)
    (((clean, attacked), target),) = recorder.seen
    torch.testing.assert_close(clean, normalized(batch()[0] / 255))
    assert not torch.allclose(clean, attacked)
    logits = torch.randn(2, B, K, generator=torch.Generator().manual_seed(0))

    def expected_of(pair: Tensor) -> Tensor:
        p, q = pair.softmax(2)
        kl = (p * (p.log() - q.log())).sum(1).mean()
        return equation_4(pair[0], onehot(target.labels)) + 3.0 * kl

    check_gradients(lambda pair: method._objective(pair, target), expected_of, logits)


def test_the_attack_of_trades_increases_the_divergence() -> None:
    fresh = Recorder()
    _, recorder = step("trades", eps=0.1, step_size=0.03)
    ((clean, attacked), _) = recorder.seen[0]
    fresh.model.eval()
    with torch.no_grad():
        p, q, r = (
            fresh.model(x).softmax(1)
            for x in (clean, attacked, clean + 0.05 * torch.randn_like(clean))
        )

    def kl(other: Tensor) -> float:
        return (p * (p / other).log()).sum().item()

    assert kl(q) > 3 * kl(r) > 0


def test_the_attack_of_trades_is_the_originals_loop() -> None:
    options = {"eps": 0.05, "step_size": 0.02, "attack_steps": 3}
    _, recorder = step("trades", **options)
    fresh, images = Recorder(), batch()[0] / 255
    fresh.model.eval()
    clean = fresh.network(images).softmax(1).detach()
    torch.manual_seed(0)
    build_method("trades", SETTING, **options), Recorder()  # as `step` does before the first draw
    attacked = images + 0.001 * torch.randn_like(images)
    for _ in range(3):
        attacked = attacked.detach().requires_grad_()
        predicted = fresh.network(attacked).softmax(1)
        (clean * (clean.log() - predicted.log())).sum().backward()
        moved = attacked + 0.02 * attacked.grad.sign()
        attacked = torch.min(torch.max(moved, images - 0.05), images + 0.05).clamp(0, 1)
    torch.testing.assert_close(recorder.images(), attacked.detach(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_stability_training_is_its_formula(weight: float) -> None:
    method, recorder = step("stable", stability=weight)
    (((clean, noisy), target),) = recorder.seen
    torch.testing.assert_close(clean, normalized(batch()[0] / 255))
    assert not torch.allclose(clean, noisy)
    logits = torch.randn(2, B, K, generator=torch.Generator().manual_seed(0))

    def expected_of(pair: Tensor) -> Tensor:
        own = equation_4(pair[0], onehot(target.labels))
        return own + weight * equation_4(pair[1], pair[0].softmax(1))

    check_gradients(lambda pair: method._objective(pair, target), expected_of, logits)


def test_bilateral_attacks_toward_the_most_confusing_class() -> None:
    fresh = Recorder()
    fresh.model.eval()
    images, labels = batch()
    _, recorder = step("bilateral", eps=0.1, step_size=0.1)
    with torch.no_grad():
        before, after = fresh.model(normalized(images / 255)), fresh.model(recorder.seen[0][0])
    wrong = before.masked_fill(onehot(labels).bool(), -torch.inf).argmax(1)
    moved = (after.log_softmax(1) - before.log_softmax(1)).gather(1, wrong[:, None])
    assert moved.mean() > 0.05


def test_the_adversarial_label_is_that_of_the_paper() -> None:
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(50) % 7
    label = adversarial_label(logits, labels, 9.0)
    torch.testing.assert_close(label.sum(1), torch.ones(50).double())
    own = label.gather(1, labels[:, None]).squeeze()
    others = label.scatter(1, labels[:, None], 0)
    torch.testing.assert_close(own, 9 * others.amax(1))
    # The likelier a wrong class, the smaller its share of the label.
    ranks = others.argsort(1, descending=True)[:, :6]
    likelihood = logits.gather(1, ranks)
    assert (likelihood.diff(dim=1) > 0).all()
    # Shares in proportion to -log f_k + log f_max + 0.01.
    row = logits[0].log_softmax(0)
    shares = (row[1:].max() - row[1:] + 0.01) / (row[1:].max() - row[1:] + 0.01).sum()
    torch.testing.assert_close(label[0, 1:] / label[0, 1:].sum(), shares)


def test_free_training_equals_the_loop_of_the_paper() -> None:
    """Against Shafahi et al.'s Algorithm 1, written out; delta is kept for the next batch."""
    eps, replays, lr = 0.04, 3, 0.05
    method, recorder = build_method("free_at", SETTING, eps=eps, replays=replays), Recorder(lr)
    plain = Recorder(lr)
    images, labels = batch()
    batches = [(images, labels), (images.flip(3).contiguous(), labels.flip(0))]
    for pair in batches:
        method.training_step(recorder, *pair)
    assert method.passes == replays and recorder.steps == 2 * replays

    delta = torch.zeros(images.shape)
    for x, y in batches:
        for _ in range(replays):
            delta.requires_grad_()
            perturbed = (x / 255 + delta).clamp(0, 1)
            loss = F.cross_entropy(plain.model(normalized(perturbed)), y)
            plain.optimizer.zero_grad()
            loss.backward()
            plain.optimizer.step()
            plain.scheduler.step()
            delta = (delta.detach() + eps * delta.grad.sign()).clamp(-eps, eps)
    torch.testing.assert_close(method.delta, delta)
    for got, expected in zip(recorder.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


class BentAtOneStep(nn.Module):
    """A network with a misleading gradient at the images: one step fails, PGD succeeds."""

    def __init__(self, points: Tensor, labels: Tensor) -> None:
        super().__init__()
        self.points, self.labels = points, labels

    def forward(self, images: Tensor) -> Tensor:
        far = (images - self.points).abs().mean((1, 2, 3)) > 0.75 * 8 / 255
        right = F.one_hot(self.labels, K).float()
        surface = (images - self.points).sum((1, 2, 3))[:, None] * (1 - 2 * right)
        return torch.where(far[:, None], 1 - right, right) * 10 + surface


def test_fast_training_warns_of_catastrophic_overfitting() -> None:
    method, recorder = step("fast_at")
    method.epoch_finished(recorder)
    names = set(method.statistics())
    assert names == {"one_step_accuracy", "pgd_accuracy"} and method.warning() is None
    images, labels = batch()
    # PGD's ten steps of eps/4 reach the ball's surface, as ten of training's would; one of those
    # stays near its start.
    overfitted = build_method("fast_at", SETTING, step_size=0.004)
    overfitted.training_step(recorder, images, labels)
    recorder.network = BentAtOneStep(images / 255, labels)
    torch.manual_seed(0)
    overfitted.epoch_finished(recorder)
    numbers = overfitted.statistics()
    assert numbers["pgd_accuracy"] < 0.2 < 0.8 < numbers["one_step_accuracy"]
    assert "catastrophic overfitting" in overfitted.warning()


# ---------------------------------------------------------------- the authors' algorithm


def test_the_authors_code_has_three_steps_and_then_one_of_beta_on_the_clean_batch() -> None:
    options = {"weight_steps": 3, "beta_batch": "clean", "beta_lr": "lr", "beta_init": 1.0}
    options |= {"scale": 11.0, "alpha": 1 / 11, "labels_per_pair": 2, "beta_grad": "expected"}
    method = build_method("sprout", SETTING, beta_momentum=0.9, beta_weight_decay=0.1, **options)
    recorder = Recorder()
    images, labels = batch()
    beta, velocity = torch.ones(K).double(), torch.zeros(K).double()
    for _ in range(2):
        before = method.beta.clone()
        calls = len(recorder.seen)
        method.training_step(recorder, images, labels)
        assert len(recorder.seen) == calls + 3 == recorder.steps
        assert not torch.equal(method.beta, before)
        with torch.no_grad():
            logits = recorder.model(normalized(images / 255)).double()
        # The gradient of E[L] at concentration 10 y + beta, then SGD as torch has it, ascending.
        c, a = -logits.log_softmax(1), 10 * onehot(labels) + beta
        total = a.sum(1, keepdim=True)
        gradient = ((c - (a * c).sum(1, keepdim=True) / total) / total).mean(0)
        velocity = 0.9 * velocity + gradient - 0.1 * beta
        beta = beta + method.loss.lr_factor * velocity
        torch.testing.assert_close(method.beta.double(), beta, rtol=1e-4, atol=1e-6)
    assert not torch.equal(*(inputs for inputs, _ in recorder.seen[:2]))  # new noise each time
    assert method.loss.lr_factor.item() == pytest.approx(0.05, rel=1e-6)


def test_two_labels_per_pair_mix_two_losses() -> None:
    method, recorder = step("sprout", labels_per_pair=2, mixup_alpha=1.0, scale=1e5)
    ((_, target),) = recorder.seen
    logits = torch.randn(B, K, generator=torch.Generator().manual_seed(0))
    lam = target.lam.item()
    a = 0.01 * method.beta.double()
    own, partner = (
        (0.99 * onehot(labels) + a) / (0.99 + a.sum())
        for labels in (target.labels, target.partner_labels)
    )
    # At a scale of 1e5 a draw is its mean within about 1 / sqrt(1e5).
    expected = lam * equation_4(logits, own) + (1 - lam) * equation_4(logits, partner)
    torch.testing.assert_close(method.loss(logits, target).double(), expected, rtol=0.01, atol=0.01)
    # Beta's gradient is that of both: at lam = 0.3, of the expected loss of each.
    method.training = method.loss.training = True
    method.loss.beta_grad, method.loss.beta_lr, method.loss.per_image = "expected", 1.0, False
    before = method.beta.clone()
    target = target._replace(lam=torch.tensor([0.3]))
    method.loss.ascend(logits, target)
    leaf = before.double().requires_grad_()
    a = 0.01 * leaf
    own, partner = (
        (0.99 * onehot(labels) + a) / (0.99 + a.sum())
        for labels in (target.labels, target.partner_labels)
    )
    (0.3 * equation_4(logits, own) + 0.7 * equation_4(logits, partner)).backward()
    torch.testing.assert_close((method.beta - before).double(), leaf.grad, rtol=0.02, atol=1e-6)
    per_sample = MixupTarget(target.labels, target.partner_labels, torch.full((B,), 0.5))
    with pytest.raises(ValueError, match="one value per batch if labels_per_pair is 2, got 6"):
        method.loss(logits, per_sample)


# ---------------------------------------------------------------- all methods


@pytest.mark.parametrize("name", METHODS)
def test_every_method_resumes_from_its_state_dict(name: str) -> None:
    small = {"free_at": {"replays": 2}}.get(name, {})
    first, second = (build_method(name, SETTING, **small) for _ in range(2))
    one, other = Recorder(), Recorder()
    torch.manual_seed(0)
    for _ in range(2):
        first.training_step(one, *batch())
    second.load_state_dict(first.state_dict())
    other.model.load_state_dict(one.model.state_dict())
    for method, recorder in ((first, one), (second, other)):
        torch.manual_seed(1)
        method.training_step(recorder, *batch())
    inputs, resumed = one.seen[-1][0], other.seen[-1][0]
    pairs = [(inputs, resumed)] if isinstance(inputs, Tensor) else zip(inputs, resumed, strict=True)
    for a, b in pairs:
        assert torch.equal(a, b)
    assert one.losses[-1] == other.losses[-1]
    if first.beta is not None:
        assert torch.equal(first.beta, second.beta)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_one_batch(name: str) -> None:
    torch.manual_seed(0)
    options = {"pgd_at": {"attack_steps": 2}, "trades": {"attack_steps": 2}}.get(name, {})
    method, recorder = build_method(name, SETTING, **options), Recorder()
    images, labels = batch()
    for _ in range(40):
        method.training_step(recorder, images, labels)
    recorder.model.eval()
    with torch.no_grad():
        logits = recorder.model(normalized(images / 255))
    assert F.cross_entropy(logits, labels) < 0.8  # chance: 1.39
    assert all(value == value for value in recorder.losses)


@pytest.mark.parametrize("name", [name for name in ATTACK_FREE if name not in ("natural", "ls")])
def test_draws_depend_on_the_seed(name: str) -> None:
    one, again, other = (
        inputs_of(build_method(name, MethodSetting(K, MEAN, STD, seed=seed))) for seed in (1, 1, 2)
    )
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_statistics_and_warning_follow_beta() -> None:
    method = build_method("sprout", SETTING)
    method.beta.copy_(torch.tensor([0.5, 1.0, 1.5, 3.0]))
    numbers = method.statistics()
    assert (numbers["beta_min"], numbers["beta_mean"], numbers["beta_max"]) == (0.5, 1.5, 3.0)
    expected = (0.99 + 0.01 * 1.5) / (0.99 + 0.01 * 6.0)
    assert numbers["true_class_mass"] == pytest.approx(expected, rel=1e-5)
    assert method.warning() is None
    method.beta.fill_(100.0)
    assert "0.40" in method.warning()
    assert build_method("natural", SETTING).statistics() == {}


def test_the_documented_method_is_one_class_and_trains() -> None:
    page = (ROOT / "docs" / "methods.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    body = code[code.index("class ") :]
    assert len([line for line in body.splitlines() if line.strip()]) <= 20
    try:
        exec(compile(code, "methods.md", "exec"), {})
        _, recorder = step("sign_noise", eps=0.05)
        images = batch()[0] / 255
        inside = (images > 0.05) & (images < 0.95)
        moved = (recorder.images() - images).abs()[inside]
        torch.testing.assert_close(moved, torch.full_like(moved, 0.05), atol=1e-5, rtol=0)
    finally:
        METHODS._entries.pop("sign_noise", None)


def test_options_reach_the_mixer_and_the_loss() -> None:
    options = {"sigma": 0.3, "mixup_alpha": 0.7, "alpha": 0.2, "scale": 3.0, "label_mode": "mean"}
    options |= {"beta_lr": 0.9, "beta_grad": "expected", "mass_floor": 0.6}
    method = build_method("sprout", SETTING, **options)
    for name, value in options.items():
        part = method.mixer if name in ("sigma", "mixup_alpha") else method.loss
        assert getattr(part, name) == value, name


def test_the_command_line_has_every_option_of_every_method() -> None:
    config = TrainConfig(method="trades", kl_weight=2.0, eps=0.1)
    assert config.method_options() == {"kl_weight": 2.0, "eps": 0.1}
    for method in METHODS.values():
        for option in list(inspect.signature(method).parameters)[1:]:
            assert hasattr(config, option), option


def test_an_unknown_method_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="^method: got 'sprot', expected .*did you mean sprout?"):
        build_method("sprot", SETTING)
    with pytest.raises(UserError) as error:
        build_method("autoattack", SETTING)
    assert "did you mean" not in str(error.value) and "natural" in str(error.value)


def test_an_option_of_another_method_is_not_ignored() -> None:
    with pytest.raises(UserError, match="^beta_lr 0.1: method natural has no such option"):
        build_method("natural", SETTING, beta_lr=0.1)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("sprout", "alpha", 1.5),
        ("sprout", "sigma", -0.1),
        ("sprout", "mixup_alpha", -1.0),
        ("sprout", "beta_lr", float("nan")),
        ("sprout", "weight_steps", 0),
        ("sprout", "beta_batch", "dirty"),
        ("sprout", "beta_lr", "rl"),
        ("sprout", "beta_init", -1.0),
        ("sprout", "beta_init", 1e30),
        ("sprout", "scale", -1.0),
        ("sprout", "scale", float("nan")),
        ("sprout", "mixup_alpha", float("nan")),
        ("sprout", "mass_floor", 0.25),
        ("mixup", "mixup_alpha", float("inf")),
        ("pgd_at", "eps", 8.0),
        ("trades", "step_size", 2.0),
        ("free_at", "eps", 8.0),
        ("ls", "alpha", 1.5),
        ("ga", "sigma", float("nan")),
        ("pgd_at", "eps", -1.0),
        ("pgd_at", "attack_steps", 0),
        ("trades", "step_size", -1.0),
        ("trades", "kl_weight", -1.0),
        ("stable", "stability", -1.0),
        ("bilateral", "label_margin", 0.5),
        ("free_at", "replays", 0),
        ("free_at", "eps", float("nan")),
    ],
)
def test_an_option_outside_its_range_is_a_user_error(name: str, option: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^method {name}: {option}"):
        build_method(name, SETTING, **{option: value})


def test_methods_with_several_steps_per_batch_do_not_accumulate() -> None:
    setting = MethodSetting(K, MEAN, STD, accumulation_steps=2)
    with pytest.raises(UserError, match="^accumulation_steps 2: not supported by method free_at"):
        build_method("free_at", setting)
    assert build_method("free_at", setting, replays=1).passes == 1


# Of the methods' papers, and of PGD-7 as Madry et al. train with on CIFAR-10.
DEFAULTS = {
    "pgd_at": {"eps": 8 / 255, "step_size": 2 / 255, "attack_steps": 7},
    "trades": {"eps": 0.031, "step_size": 0.007, "attack_steps": 10, "kl_weight": 6.0},
    "fast_at": {"eps": 8 / 255, "step_size": 10 / 255},
    "free_at": {"eps": 8 / 255, "replays": 8},
    "bilateral": {"eps": 8 / 255, "step_size": 8 / 255, "attack_steps": 1, "label_margin": 9.0},
    "stable": {"sigma": 0.1, "stability": 0.01},
    "sprout": {"sigma": 0.1, "mixup_alpha": 0.2, "alpha": 0.01, "scale": 1.0, "weight_steps": 1},
    "mixup": {"mixup_alpha": 0.2, "alpha": 0.0},
    "ga_ls": {"sigma": 0.1, "alpha": 0.1},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_those_of_the_papers(name: str) -> None:
    parameters = inspect.signature(METHODS[name]).parameters
    assert {key: parameters[key].default for key in DEFAULTS[name]} == DEFAULTS[name]
