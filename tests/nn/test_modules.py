"""PhiloxState, SproutMixup and SproutLoss."""

import io

import pytest
import torch

from sprout_fast import MixupTarget, PhiloxState, SproutLoss, SproutMixup, reference, sprout_loss
from sprout_fast.reference.sprout_loss import concentrations

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def images(batch=6, size=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(256, (batch, 3, size, size), dtype=torch.uint8, generator=g)


class TestPhiloxState:
    def test_next_moves_on(self):
        state = PhiloxState(7, first_row=4)
        assert [state.next().tolist() for _ in range(3)] == [[7, 0, 4], [7, 1, 4], [7, 2, 4]]

    def test_resumes(self):
        state = PhiloxState(7)
        state.next()
        again = PhiloxState(0)
        again.load_state_dict(state.state_dict())
        assert torch.equal(again.next(), state.next())

    @pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, 2**63, 2**64 - 1])
    def test_any_seed(self, seed):
        assert int(PhiloxState(seed).state[0]) % 2**64 == seed % 2**64

    def test_in_a_compiled_graph(self):
        state = PhiloxState(3)
        f = torch.compile(state.next, fullgraph=True)
        assert [f().tolist(), f().tolist()] == [[3, 0, 0], [3, 1, 0]]

    def test_first_row(self):
        with pytest.raises(ValueError, match="first_row must be at least 0, got -1"):
            PhiloxState(0, first_row=-1)


class TestSproutMixup:
    def test_is_the_ops(self):
        x, labels = images(), torch.tensor([0, 1, 2, 3, 4, 5])
        mixer = SproutMixup(mean=MEAN, std=STD, seed=5)
        for offset in range(3):
            batch, target = mixer(x, labels)
            state = torch.tensor([5, offset, 0])
            partner, lam = reference.sample_mixup(6, state)
            assert torch.equal(target.partner_labels, labels[partner])
            torch.testing.assert_close(target.lam, lam, rtol=3e-5, atol=1e-7)
            expected = reference.gaussian_mixup(x, partner, lam, state, mean=MEAN, std=STD)
            torch.testing.assert_close(batch, expected, rtol=0, atol=2e-5)

    def test_eval_only_normalises(self):
        x, labels = images(), torch.arange(6)
        mixer = SproutMixup(mean=MEAN, std=STD).eval()
        batch, target = mixer(x, labels)
        mean, std = torch.tensor(MEAN).view(-1, 1, 1), torch.tensor(STD).view(-1, 1, 1)
        torch.testing.assert_close(batch, (x / 255 - mean) / std, rtol=0, atol=1e-6)
        assert target.partner_labels is None and target.lam is None
        assert mixer.rng.state[1] == 0  # evaluation does not move the training's numbers

    def test_natural(self):
        x, labels = images(), torch.arange(6)
        batch, target = SproutMixup(sigma=0, mixup_alpha=0)(x, labels)
        torch.testing.assert_close(batch, x / 255)
        assert target == MixupTarget(labels, None, None)

    def test_per_sample(self):
        _, target = SproutMixup(per_sample=True)(images(), torch.arange(6))
        assert target.lam.shape == (6,) and target.lam.unique().numel() == 6

    def test_normalized_input(self):
        """Normalised floats in, the same batch out as for the uint8 images themselves."""
        x, labels = images(), torch.arange(6)
        mean, std = torch.tensor(MEAN).view(-1, 1, 1), torch.tensor(STD).view(-1, 1, 1)
        a, _ = SproutMixup(mean=MEAN, std=STD, seed=1)(x, labels)
        b, _ = SproutMixup(input_normalized_by=(MEAN, STD), seed=1)((x / 255 - mean) / std, labels)
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)

    def test_wrong_arguments(self):
        with pytest.raises(ValueError, match="a must be in"):
            SproutMixup(mixup_alpha=-1)
        with pytest.raises(ValueError, match="not both"):
            SproutMixup(mean=MEAN, std=STD, input_normalized_by=(MEAN, STD))
        with pytest.raises(TypeError, match="got uint8"):
            SproutMixup(input_normalized_by=(MEAN, STD))(images(), torch.arange(6))


def logits_and_target(batch=8, classes=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, generator=g)
    labels = torch.randint(classes, (2, batch), generator=g)
    return logits, MixupTarget(labels[0], labels[1], torch.rand(1, generator=g))


def part(target, rows):
    return MixupTarget(target.labels[rows], target.partner_labels[rows], target.lam)


class TestSproutLoss:
    @pytest.mark.parametrize("beta_grad", ["implicit", "expected"])
    def test_ascends_beta_as_sgd_does(self, beta_grad):
        """Against torch.optim.SGD(maximize=True) on the op's own gradient, with the projection."""
        loss_fn = SproutLoss(
            5, alpha=0.3, scale=2.0, beta_grad=beta_grad, beta_lr=0.5, beta_momentum=0.9,
            beta_weight_decay=0.01, seed=3,
        )  # fmt: skip
        beta = loss_fn.beta.clone().requires_grad_()
        # SGD maximises the loss less the decay's penalty.
        sgd = torch.optim.SGD([beta], lr=0.5, momentum=0.9)
        for step in range(5):
            logits, target = logits_and_target(seed=step)
            state = torch.tensor([3, step, 0])
            value = sprout_loss(
                logits, *target, beta, state, alpha=0.3, scale=2.0, beta_grad=beta_grad
            )
            assert torch.equal(loss_fn(logits, target), value.detach())
            sgd.zero_grad()
            (-value).backward()
            beta.grad += 0.01 * beta.detach()
            sgd.step()
            with torch.no_grad():
                beta.clamp_(min=1e-3 / 5)
            torch.testing.assert_close(loss_fn.beta, beta.detach(), rtol=1e-5, atol=1e-7)

    def test_backward_uses_the_beta_that_forward_saw(self):
        logits, target = logits_and_target()
        logits.requires_grad_()
        loss_fn = SproutLoss(5, beta_lr=100.0, alpha=0.5, seed=3)
        before = loss_fn.beta.clone()
        loss = loss_fn(logits, target)
        assert (loss_fn.beta - before).abs().max() > 0.1
        (grad,) = torch.autograd.grad(loss, logits)
        expected = sprout_loss(logits, *target, before, torch.tensor([3, 0, 0]), alpha=0.5)
        assert torch.equal(grad, torch.autograd.grad(expected, logits)[0])

    def test_projection_and_start(self):
        for classes in (10, 1000):
            loss_fn = SproutLoss(classes, seed=1)
            assert loss_fn.beta.min() >= 1e-3 / classes
            assert loss_fn.beta.max() <= 10 / classes
            assert 0.9 < loss_fn.expected_true_mass() < 0.98
        loss_fn = SproutLoss(5, beta_lr=1e6, alpha=0.5)
        loss_fn(*logits_and_target())
        assert loss_fn.beta.min() == pytest.approx(1e-3 / 5)

    def test_expected_true_mass(self):
        """Against the Dirichlet's mean, averaged over the true class."""
        loss_fn = SproutLoss(4, alpha=0.3, scale=3.0, seed=2)
        a = concentrations(torch.arange(4), None, None, loss_fn.beta, alpha=0.3, scale=3.0)
        expected = (a / a.sum(1, keepdim=True)).diagonal().mean()
        assert loss_fn.expected_true_mass().item() == pytest.approx(expected.item(), rel=1e-6)

    def test_accumulation_is_one_step_of_the_mean(self):
        logits, target = logits_and_target(batch=8)
        halves = [(logits[rows], part(target, rows)) for rows in (slice(0, 4), slice(4, 8))]
        whole = SproutLoss(5, alpha=0.3, label_mode="mean", beta_lr=1.0)
        parts = SproutLoss(5, alpha=0.3, label_mode="mean", beta_lr=1.0, accumulation_steps=2)
        start = parts.beta.clone()
        whole(logits, target)
        parts(*halves[0])
        assert torch.equal(parts.beta, start)
        parts(*halves[1])
        torch.testing.assert_close(parts.beta, whole.beta)
        assert not torch.equal(parts.beta, start)

    def test_skips_what_is_not_finite(self):
        loss_fn = SproutLoss(5, beta_momentum=0.9, alpha=0.3)
        loss_fn(*logits_and_target())
        beta, velocity = loss_fn.beta.clone(), loss_fn.beta_velocity.clone()
        logits, target = logits_and_target()
        logits[0, 0] = torch.nan
        assert loss_fn(logits, target).isnan()
        assert torch.equal(loss_fn.beta, beta) and torch.equal(loss_fn.beta_velocity, velocity)
        loss_fn(*logits_and_target(seed=1))
        assert not torch.equal(loss_fn.beta, beta)

    def test_mass_floor(self):
        """Without a floor these steps push the mass far down; with one it stays."""
        masses = {}
        for floor in (None, 0.8):
            loss_fn = SproutLoss(5, alpha=0.3, beta_lr=50.0, mass_floor=floor, label_mode="mean")
            for step in range(20):
                loss_fn(*logits_and_target(seed=step))
            masses[floor] = loss_fn.expected_true_mass().item()
        assert masses[None] < 0.5
        assert masses[0.8] == pytest.approx(0.8, abs=1e-3)

    def test_eval_changes_nothing(self):
        loss_fn = SproutLoss(5).eval()
        before = {k: v.clone() for k, v in loss_fn.state_dict().items()}
        first, second = (loss_fn(*logits_and_target()) for _ in range(2))
        assert torch.equal(first, second)
        assert all(torch.equal(v, before[k]) for k, v in loss_fn.state_dict().items())

    def test_default_gradient_by_classes(self):
        assert SproutLoss(99).beta_grad == "implicit"
        assert SproutLoss(100).beta_grad == "expected"
        assert SproutLoss(1000).beta_lr == pytest.approx(SproutLoss(10).beta_lr / 100)

    def test_plain_labels(self):
        logits, target = logits_and_target()
        a = SproutLoss(5)(logits, target.labels)
        b = SproutLoss(5)(logits, MixupTarget(target.labels))
        assert torch.equal(a, b)

    def test_resumes_from_its_state_dict(self):
        loss_fn = SproutLoss(5, beta_momentum=0.9, alpha=0.3, seed=4)
        loss_fn(*logits_and_target())
        file = io.BytesIO()
        torch.save(loss_fn.state_dict(), file)
        file.seek(0)
        again = SproutLoss(5, beta_momentum=0.9, alpha=0.3, seed=0)
        again.load_state_dict(torch.load(file, weights_only=True))
        for fn in (loss_fn, again):
            fn(*logits_and_target(seed=1))
        assert torch.equal(loss_fn.beta, again.beta)

    def test_resumes_between_two_steps(self):
        """From a state_dict that was taken within an accumulation."""
        options = dict(accumulation_steps=3, alpha=0.3, seed=4)
        loss_fn, again = SproutLoss(5, **options), SproutLoss(5, **options)
        for step in range(7):
            if step == 2:
                again.load_state_dict(loss_fn.state_dict())
            for fn in (loss_fn, again) if step >= 2 else (loss_fn,):
                fn(*logits_and_target(seed=step))
        assert again.micro_steps == 1
        for value, expected in zip(
            again.state_dict().values(), loss_fn.state_dict().values(), strict=True
        ):
            assert torch.equal(value, expected)

    @pytest.mark.parametrize("scale", [1.0, 65536.0])
    def test_loss_scaling_does_not_reach_beta(self, scale):
        logits, target = logits_and_target()
        loss_fn = SproutLoss(5, alpha=0.3)
        logits.requires_grad_()
        (loss_fn(logits, target) * scale).backward()
        torch.testing.assert_close(loss_fn.beta, _one_step_beta())

    @pytest.mark.parametrize(
        "options, message",
        [
            (dict(num_classes=0), "num_classes must be at least 1"),
            (dict(num_classes=5, alpha=2), "alpha must be in"),
            (dict(num_classes=5, beta_grad="exact"), "beta_grad must be"),
            (dict(num_classes=5, accumulation_steps=0), "accumulation_steps must be"),
            (dict(num_classes=5, mass_floor=1.0), "mass_floor must be in"),
        ],
    )
    def test_wrong_arguments(self, options, message):
        with pytest.raises(ValueError, match=message):
            SproutLoss(**options)


def _one_step_beta():
    loss_fn = SproutLoss(5, alpha=0.3)
    loss_fn(*logits_and_target())
    return loss_fn.beta


def test_a_step_compiles_whole():
    """Mixer, loss and beta's ascent in one graph."""
    weight = torch.randn(3 * 8 * 8, 5, generator=torch.Generator().manual_seed(0))
    runs = []
    for compiler in (lambda f: f, lambda f: torch.compile(f, fullgraph=True, backend="aot_eager")):
        mixer, loss_fn = SproutMixup(mean=MEAN, std=STD, seed=3), SproutLoss(5, alpha=0.3, seed=4)

        @compiler
        def step(x, labels, weight, mixer=mixer, loss_fn=loss_fn):
            batch, target = mixer(x, labels)
            return loss_fn(batch.flatten(1) @ weight, target)

        for _ in range(2):
            leaf = weight.clone().requires_grad_()
            loss = step(images(), torch.arange(6) % 5, leaf)
            runs.append([loss.detach(), *torch.autograd.grad(loss, leaf)])
        runs.append([loss_fn.beta, loss_fn.rng.state, mixer.rng.state])
    for eager, compiled in zip(runs[:3], runs[3:], strict=True):
        for expected, ours in zip(eager, compiled, strict=True):
            torch.testing.assert_close(ours, expected)


def test_all_reduce_averages_the_gradient(tmp_path):
    """Two gloo ranks with half the batch each take the step that one rank takes with all of it."""
    torch.multiprocessing.spawn(_rank, args=(2, str(tmp_path)), nprocs=2)
    logits, target = logits_and_target(batch=8)
    loss_fn = SproutLoss(5, alpha=0.3, seed=6)
    loss_fn(logits, target)
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), loss_fn.beta)


def _rank(rank, world_size, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    logits, target = logits_and_target(batch=8)
    rows = slice(4 * rank, 4 * rank + 4)
    loss_fn = SproutLoss(5, alpha=0.3, seed=6, first_row=4 * rank)
    loss_fn(logits[rows], part(target, rows))
    torch.save(loss_fn.beta, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()
