"""SproutLoss: the steps of beta, resuming, compiling, distributed runs, and its options."""

import copy
import io
import pickle

import pytest
import torch
from helpers.op_inputs import MEAN, STD, random_images

from sprout_fast import MixupTarget, SproutLoss, SproutMixup, sprout_loss
from sprout_fast.reference.sprout_loss import concentrations


def logits_and_target(batch=8, classes=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, generator=g)
    labels = torch.randint(classes, (2, batch), generator=g)
    return logits, MixupTarget(labels[0], labels[1], torch.rand(1, generator=g))


def part(target, rows):
    return MixupTarget(target.labels[rows], target.partner_labels[rows], target.lam)


@pytest.mark.parametrize("beta_grad", ["implicit", "expected"])
def test_ascends_beta_as_sgd_does(beta_grad):
    """Compare with torch.optim.SGD on the gradient of the op, followed by the projection."""
    loss_fn = SproutLoss(
        5, alpha=0.3, scale=2.0, beta_grad=beta_grad, beta_lr=0.5 / 8, beta_momentum=0.9,
        beta_weight_decay=0.01, seed=3,
    )  # fmt: skip
    beta = loss_fn.beta.clone().requires_grad_()
    # SGD maximizes the loss minus the penalty of the weight decay. beta_lr is per image.
    sgd = torch.optim.SGD([beta], lr=0.5, momentum=0.9)
    for step in range(5):
        logits, target = logits_and_target(seed=step)
        state = torch.tensor([3, step, 0])
        value = sprout_loss(logits, *target, beta, state, alpha=0.3, scale=2.0, beta_grad=beta_grad)
        assert torch.equal(loss_fn(logits, target), value.detach())
        sgd.zero_grad()
        (-value).backward()
        beta.grad += 0.01 * beta.detach()
        sgd.step()
        with torch.no_grad():
            beta.clamp_(min=1e-3 / 5)
        torch.testing.assert_close(loss_fn.beta, beta.detach(), rtol=1e-5, atol=1e-7)


def test_backward_uses_the_beta_of_its_forward_pass():
    logits, target = logits_and_target()
    logits.requires_grad_()
    loss_fn = SproutLoss(5, beta_lr=100.0, alpha=0.5, seed=3)
    before = loss_fn.beta.clone()
    loss = loss_fn(logits, target)
    assert (loss_fn.beta - before).abs().max() > 0.1
    (grad,) = torch.autograd.grad(loss, logits)
    expected = sprout_loss(logits, *target, before, torch.tensor([3, 0, 0]), alpha=0.5)
    assert torch.equal(grad, torch.autograd.grad(expected, logits)[0])


def test_initial_beta_and_projection():
    for classes in (10, 1000):
        loss_fn = SproutLoss(classes, seed=1)
        assert loss_fn.beta.min() >= 1e-3 / classes
        assert loss_fn.beta.max() <= 10 / classes
        assert 0.9 < loss_fn.expected_true_mass() < 0.98
    loss_fn = SproutLoss(5, beta_lr=1e6, alpha=0.5)
    loss_fn(*logits_and_target())
    assert loss_fn.beta.min() == pytest.approx(1e-3 / 5)


def test_expected_true_mass():
    """Compare with the mean of the Dirichlet at the true class, averaged over classes."""
    loss_fn = SproutLoss(4, alpha=0.3, scale=3.0, seed=2)
    a = concentrations(torch.arange(4), None, None, loss_fn.beta, alpha=0.3, scale=3.0)
    expected = (a / a.sum(1, keepdim=True)).diagonal().mean()
    assert loss_fn.expected_true_mass().item() == pytest.approx(expected.item(), rel=1e-6)


def test_accumulated_gradients_are_averaged():
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


def test_the_rate_of_beta_is_per_image_and_follows_the_schedule():
    logits, target = logits_and_target(batch=8)

    def moved(logits, target, factor=1.0, **options):
        loss_fn = SproutLoss(5, alpha=0.3, label_mode="mean", beta_init=0.5, **options)
        loss_fn.lr_factor.fill_(factor)
        loss_fn(logits, target)
        return loss_fn.beta - 0.5

    twice = MixupTarget(target.labels.repeat(2), target.partner_labels.repeat(2), target.lam)
    once = moved(logits, target, beta_lr=0.1)
    assert once.abs().max() > 1e-3
    torch.testing.assert_close(moved(logits.repeat(2, 1), twice, beta_lr=0.1), 2 * once)
    torch.testing.assert_close(moved(logits, target, factor=0.25, beta_lr=0.1), once / 4)
    torch.testing.assert_close(moved(logits, target, beta_lr=0.8, beta_lr_unit="step"), once)


def test_accumulation_weights_batches_by_their_images():
    logits, target = logits_and_target(batch=8)
    options = dict(alpha=0.3, label_mode="mean", beta_lr=0.1)
    whole, parts = SproutLoss(5, **options), SproutLoss(5, accumulation_steps=2, **options)
    whole(logits, target)
    for rows in (slice(0, 6), slice(6, 8)):
        parts(logits[rows], part(target, rows))
    torch.testing.assert_close(parts.beta, whole.beta)


def test_skips_nonfinite_gradients():
    loss_fn = SproutLoss(5, beta_momentum=0.9, alpha=0.3)
    loss_fn(*logits_and_target())
    beta, velocity = loss_fn.beta.clone(), loss_fn.beta_velocity.clone()
    logits, target = logits_and_target()
    logits[0, 0] = torch.nan
    assert loss_fn(logits, target).isnan()
    assert torch.equal(loss_fn.beta, beta) and torch.equal(loss_fn.beta_velocity, velocity)
    loss_fn(*logits_and_target(seed=1))
    assert not torch.equal(loss_fn.beta, beta)


def test_mass_floor():
    """These steps push the mass far below the floor if there is none."""
    masses = {}
    for floor in (0, 0.8):
        loss_fn = SproutLoss(5, alpha=0.3, beta_lr=50.0, mass_floor=floor, label_mode="mean")
        for step in range(20):
            loss_fn(*logits_and_target(seed=step))
        masses[floor] = loss_fn.expected_true_mass().item()
    assert masses[0] < 0.5
    assert masses[0.8] == pytest.approx(0.8, abs=1e-3)


def test_eval_mode_changes_nothing():
    loss_fn = SproutLoss(5).eval()
    before = {k: v.clone() for k, v in loss_fn.state_dict().items()}
    first, second = (loss_fn(*logits_and_target()) for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(v, before[k]) for k, v in loss_fn.state_dict().items())


def test_defaults_depend_on_the_number_of_classes():
    assert SproutLoss(99).beta_grad == "implicit"
    assert SproutLoss(100).beta_grad == "expected"
    assert SproutLoss(1000).beta_lr == pytest.approx(SproutLoss(10).beta_lr / 100)
    assert SproutLoss(99).mass_floor == 0 and SproutLoss(100).mass_floor == 0.9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_cast_model_keeps_beta_in_float32(dtype):
    """As Lightning's bf16-true and ``model.half()`` cast it, with the network around it."""
    model = torch.nn.ModuleDict(
        {"network": torch.nn.Linear(3, 5), "loss": SproutLoss(5, alpha=0.3)}
    )
    model.to(dtype)
    loss_fn, plain = model["loss"], SproutLoss(5, alpha=0.3)
    assert {buffer.dtype for buffer in loss_fn.buffers()} == {torch.float32, torch.int64}
    logits, target = logits_and_target()
    logits = logits.to(dtype)
    assert torch.equal(loss_fn(logits, target), plain(logits, target))
    assert loss_fn.state_dict().keys() == plain.state_dict().keys()


def test_accepts_labels_without_mixup():
    logits, target = logits_and_target()
    a = SproutLoss(5)(logits, target.labels)
    b = SproutLoss(5)(logits, MixupTarget(target.labels))
    assert torch.equal(a, b)


def test_resumes_from_its_state_dict():
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


def test_resumes_between_two_steps_of_beta():
    """Load a state_dict that was saved during an accumulation."""
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
def test_loss_scaling_does_not_affect_beta(scale):
    logits, target = logits_and_target()
    loss_fn = SproutLoss(5, alpha=0.3)
    logits.requires_grad_()
    (loss_fn(logits, target) * scale).backward()
    torch.testing.assert_close(loss_fn.beta, _one_step_beta())


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(num_classes=0), "num_classes must be at least 1, got 0"),
        (dict(alpha=2), r"alpha must be in \[0, 1\], got 2"),
        (dict(scale=0), r"scale must be in \[1e-30, 1e30\], got 0"),
        (dict(label_mode="median"), "label_mode must be 'sample' or 'mean', got 'median'"),
        (dict(labels_per_pair=3), "labels_per_pair must be 1 or 2, got 3"),
        (
            dict(beta_grad="exact"),
            "beta_grad must be 'implicit', 'expected', 'none' or None, got 'exact'",
        ),
        (dict(beta_init=-1), r"beta_init must be in \[0, 1e6\] or None, got -1"),
        (dict(beta_lr=-1), "beta_lr must be nonnegative and finite, got -1"),
        (dict(beta_momentum=float("nan")), "beta_momentum must be nonnegative and finite, got nan"),
        (dict(beta_weight_decay=-1), "beta_weight_decay must be nonnegative and finite, got -1"),
        (dict(beta_lr_unit="row"), "beta_lr_unit must be 'image' or 'step', got 'row'"),
        (dict(accumulation_steps=0), "accumulation_steps must be at least 1, got 0"),
        (dict(mass_floor=1.0), r"mass_floor must be 0 or in \(1/5, 1\), got 1.0"),
        (dict(first_row=-1), "first_row must be at least 0, got -1"),
    ],
)
def test_rejects_options_at_construction(options, message):
    with pytest.raises(ValueError, match=message):
        SproutLoss(**{"num_classes": 5, **options})


def test_two_labels_per_pair_need_one_lam():
    logits, target = logits_and_target(batch=8)
    loss_fn = SproutLoss(5, labels_per_pair=2)
    loss_fn(logits, target)
    with pytest.raises(ValueError, match="lam must have one value per batch .*, got 8"):
        loss_fn(logits, target._replace(lam=torch.rand(8)))


def _one_step_beta():
    loss_fn = SproutLoss(5, alpha=0.3)
    loss_fn(*logits_and_target())
    return loss_fn.beta


def test_training_step_compiles_to_one_graph():
    """Mixup, the loss and the step of beta, with fullgraph=True."""
    weight = torch.randn(3 * 8 * 8, 5, generator=torch.Generator().manual_seed(0))
    runs = []
    for compiler in (lambda f: f, lambda f: torch.compile(f, fullgraph=True, backend="aot_eager")):
        mixer, loss_fn = SproutMixup(mean=MEAN, std=STD, seed=3), SproutLoss(5, alpha=0.3, seed=4)

        @compiler
        def step(x, labels, weight, mixer=mixer, loss_fn=loss_fn):
            batch, target = mixer(x, labels)
            return loss_fn(batch.flatten(1) @ weight, target)

        for i in range(2):
            loss_fn.lr_factor.fill_(1 / (1 + i))
            leaf = weight.clone().requires_grad_()
            loss = step(random_images((6, 3, 8, 8)), torch.arange(6) % 5, leaf)
            runs.append([loss.detach(), *torch.autograd.grad(loss, leaf)])
        runs.append([loss_fn.beta, loss_fn.rng.state, mixer.rng.state])
    for eager, compiled in zip(runs[:3], runs[3:], strict=True):
        for expected, actual in zip(eager, compiled, strict=True):
            torch.testing.assert_close(actual, expected)


def test_a_second_backward_pass_and_create_graph():
    """The gradient that forward kept is handed out once; then the op computes the same again."""
    logits, target = logits_and_target()
    logits.requires_grad_()
    loss = SproutLoss(5, beta_lr=100.0, alpha=0.5)(logits, target)
    first, second = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for _ in range(2))
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-7)
    (doubled,) = torch.autograd.grad(loss, logits, torch.tensor(2.0), retain_graph=True)
    torch.testing.assert_close(doubled, 2 * first, rtol=1e-5, atol=1e-7)
    (grad,) = torch.autograd.grad(loss, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="has no second derivative"):
        grad.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_functional_and_fused_steps_agree(accumulation_steps, dtype):
    """What torch.compile traces and what eager mode runs, on the same batches."""
    options = dict(alpha=0.3, beta_momentum=0.9, beta_weight_decay=0.01, mass_floor=0.6)
    options |= dict(accumulation_steps=accumulation_steps)
    fused, functional = SproutLoss(5, **options), SproutLoss(5, **options)
    for step in range(4):
        logits, target = logits_and_target(seed=step)
        leaves = [logits.to(dtype).requires_grad_() for _ in range(2)]
        losses = fused(leaves[0], target), functional._compose(leaves[1], target, True)
        assert torch.equal(losses[0], losses[1])
        grads = [torch.autograd.grad(*pair)[0] for pair in zip(losses, leaves, strict=True)]
        assert torch.equal(*grads)
    for value, expected in zip(
        fused.state_dict().values(), functional.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)


def test_an_error_leaves_the_state_as_it_was():
    logits, target = logits_and_target()
    loss_fn = SproutLoss(5, accumulation_steps=2)
    before = {k: v.clone() for k, v in loss_fn.state_dict().items()}
    with pytest.raises(RuntimeError, match="labels must be in"):
        loss_fn(logits, target._replace(labels=target.labels + 5))
    assert all(torch.equal(v, before[k]) for k, v in loss_fn.state_dict().items())


def test_autograd_notices_that_beta_changed():
    loss_fn = SproutLoss(5)
    weight = torch.ones(5, requires_grad=True)
    penalty = (weight * loss_fn.beta).sum()
    loss_fn(*logits_and_target())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        penalty.backward()


def _trajectory(batches, rank=0, world_size=1, **options):
    """Return beta after each of 5 steps on 256 images, of which this rank sees its share."""
    loss_fn = SproutLoss(10, seed=6, first_row=256 // world_size * rank, beta_lr=0.05, **options)
    trajectory = []
    for step in range(5):
        loss_fn.lr_factor.fill_(1 / (1 + step))
        logits, target = logits_and_target(batch=256, classes=10, seed=step)
        for rows in torch.arange(256).tensor_split(world_size)[rank].tensor_split(batches):
            loss_fn(logits[rows], part(target, rows))
        trajectory.append(loss_fn.beta.clone())
    return torch.stack(trajectory)


def _rank(rank, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=4
    )
    torch.save(_trajectory(1, rank, 4), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_four_ranks_of_64_give_the_trajectory_of_one_of_256(tmp_path):
    """Each rank draws the labels of its own rows, so even the draws are the same."""
    torch.multiprocessing.spawn(_rank, args=(str(tmp_path),), nprocs=4)
    whole = _trajectory(1)
    assert (whole[-1] - whole[0]).abs().max() > 0.01
    for rank in range(4):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), whole)


def _rank_with_a_pending_step(rank, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    seen = {}
    uses = {
        "beta": lambda f: f.beta,
        "mass": lambda f: f.expected_true_mass(),
        "state_dict": lambda f: torch.nn.ModuleList([f]).state_dict()["0.beta"],
        "deepcopy": lambda f: copy.deepcopy(f)._buffers["beta"],
        "pickle": lambda f: pickle.loads(pickle.dumps(f))._buffers["beta"],
        "cast": lambda f: f.double()._buffers["beta"],
        "lr_factor": lambda f: (f.lr_factor.fill_(7.0), f._buffers["beta"])[1],
        "eval": lambda f: (f.eval()(*logits_and_target()), f._buffers["beta"])[1],
        "load": lambda f: (f.load_state_dict(SproutLoss(5, beta_init=0.25).state_dict()), f.beta)[
            1
        ],
    }
    for name, use in uses.items():
        loss_fn = SproutLoss(5, alpha=0.3, seed=3, beta_lr=1.0, label_mode="mean")
        logits, target = logits_and_target(batch=8)
        rows = torch.arange(8).tensor_split(2)[rank]
        before = loss_fn.beta.clone()
        loss_fn(logits[rows], part(target, rows))
        # Forward has returned without the step: its gradients are on their way.
        assert loss_fn._pending is not None and torch.equal(loss_fn._buffers["beta"], before)
        seen[name] = use(loss_fn).clone()
        assert loss_fn._pending is None and not loss_fn.beta_grad_sum.any()
    torch.save(seen, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_a_step_of_several_ranks_is_finished_where_beta_is_used_next(tmp_path):
    torch.multiprocessing.spawn(_rank_with_a_pending_step, args=(str(tmp_path),), nprocs=2)
    whole = SproutLoss(5, alpha=0.3, seed=3, beta_lr=1.0, label_mode="mean")
    start = whole.beta.clone()
    whole(*logits_and_target(batch=8))
    assert not torch.equal(whole.beta, start)
    expected = whole.beta
    for rank in range(2):
        seen = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(seen.pop("load"), torch.full((5,), 0.25))
        torch.testing.assert_close(seen.pop("mass"), whole.expected_true_mass())
        for name, beta in seen.items():
            torch.testing.assert_close(beta, expected, msg=lambda m, n=name: f"{n}: {m}")


def _rank_accumulating(rank, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    torch.save(
        _trajectory(2, rank, 2, accumulation_steps=2, label_mode="mean"), f"{folder}/{rank}.pt"
    )
    torch.distributed.destroy_process_group()


def test_ranks_that_accumulate_give_the_trajectory_of_one(tmp_path):
    torch.multiprocessing.spawn(_rank_accumulating, args=(str(tmp_path),), nprocs=2)
    whole = _trajectory(1, label_mode="mean")
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), whole)


def test_four_accumulated_batches_of_64_give_the_trajectory_of_one_of_256():
    """With the labels' means: each batch has draws of its own."""
    whole = _trajectory(1, label_mode="mean")
    torch.testing.assert_close(_trajectory(4, accumulation_steps=4, label_mode="mean"), whole)
