"""sprout_loss against its reference implementation and the closed form, and its contracts."""

import math

import mpmath
import pytest
import torch
import torch.nn.functional as F
from helpers.op_inputs import STATE

from sprout_fast import reference, sprout_loss
from sprout_fast.ops.sprout_loss import SproutLossArguments, sprout_loss_and_grad_beta
from sprout_fast.reference.sprout_loss import concentrations, step_beta_

# (alpha, scale) of the paper and of the authors' code, whose concentrations are 10 y + u.
RECIPES = {"paper": (0.01, 1.0), "code": (1 / 11, 11.0)}


def inputs(batch, classes, dtype=torch.float32, seed=0, spread=3.0):
    g = torch.Generator().manual_seed(seed)
    logits = (spread * torch.randn(batch, classes, generator=g)).to(dtype)
    labels = torch.randint(classes, (batch,), generator=g)
    partner_labels = torch.randint(classes, (batch,), generator=g)
    lam = torch.rand(batch, generator=g)
    beta = torch.rand(classes, generator=g)
    return logits, labels, partner_labels, lam, beta


def gradients(loss, logits, labels, partner_labels, lam, beta, **options):
    logits, beta = logits.clone().requires_grad_(), beta.clone().requires_grad_()
    value = loss(logits, labels, partner_labels, lam, beta, STATE, **options)
    weights = 1.0
    if value.dim():  # reduction="none": one weight per row
        weights = torch.linspace(0.5, 2, len(value), dtype=value.dtype)
    wanted = [logits, beta] if options.get("beta_grad") != "none" else [logits]
    return value, *torch.autograd.grad((weights * value).sum(), wanted)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("batch, classes", [(1, 1), (9, 2), (64, 10), (3, 16), (17, 33), (8, 1000)])
@pytest.mark.parametrize("label_mode", ["sample", "mean"])
@pytest.mark.parametrize("beta_grad", ["implicit", "expected"])
def test_equals_reference(recipe, batch, classes, label_mode, beta_grad):
    alpha, scale = RECIPES[recipe]
    arguments = inputs(batch, classes)
    for reduction in ("mean", "sum", "none"):
        options = dict(
            alpha=alpha,
            scale=scale,
            label_mode=label_mode,
            beta_grad=beta_grad,
            reduction=reduction,
        )
        actual = gradients(sprout_loss, *arguments, **options)
        exact = (arguments[0].double(), *arguments[1:])
        expected = gradients(reference.sprout_loss, *exact, **options)
        for got, exact in zip(actual, expected, strict=True):
            size = max(1.0, exact.abs().max().item())
            torch.testing.assert_close(got.double(), exact.double(), rtol=2e-5, atol=2e-6 * size)


@pytest.mark.parametrize("recipe", RECIPES)
def test_float64(recipe):
    alpha, scale = RECIPES[recipe]
    arguments = inputs(16, 50, torch.float64)
    actual = gradients(sprout_loss, *arguments, alpha=alpha, scale=scale)
    expected = gradients(reference.sprout_loss, *arguments, alpha=alpha, scale=scale)
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(actual[1], expected[1], rtol=1e-10, atol=1e-15)
    torch.testing.assert_close(actual[2], expected[2], rtol=1e-5, atol=1e-7)  # beta is float32


def test_lam_weights_labels():
    """lam = 1 is the loss of the labels, lam = 0 that of the partners' labels."""
    logits, labels, partner_labels, _, beta = inputs(12, 20)
    for lam in (1.0, 0.0, 0.25):
        mixed = sprout_loss(
            logits, labels, partner_labels, torch.tensor([lam]), beta, STATE, alpha=0.0,
            label_mode="mean", reduction="none",
        )  # fmt: skip
        own, partners = (
            F.cross_entropy(logits, y, reduction="none") for y in (labels, partner_labels)
        )
        torch.testing.assert_close(mixed, lam * own + (1 - lam) * partners)


def test_without_mixup_is_mixup_with_lam_1():
    logits, labels, partner_labels, _, beta = inputs(12, 20)
    plain = gradients(sprout_loss, logits, labels, None, None, beta)
    mixed = gradients(sprout_loss, logits, labels, partner_labels, torch.ones(1), beta)
    for a, b in zip(plain, mixed, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_logits_gradient_as_good_as_pytorch(dtype):
    """The error against float64 is at most twice that of PyTorch's soft-label cross entropy."""
    logits, labels, partner_labels, lam, beta = inputs(60, 100, dtype)  # 1/60 is rounded
    options = dict(label_mode="mean", beta_grad="none", alpha=0.3)
    exact = gradients(
        reference.sprout_loss, logits.double(), labels, partner_labels, lam, beta, **options
    )
    actual = gradients(sprout_loss, logits, labels, partner_labels, lam, beta, **options)
    a = concentrations(labels, partner_labels, lam, beta, alpha=0.3, scale=1.0)
    soft = (a / a.sum(1, keepdim=True)).to(dtype)
    theirs = logits.clone().requires_grad_()
    F.cross_entropy(theirs, soft).backward()
    for error in (torch.amax, torch.mean):
        bound = 2 * error((theirs.grad - exact[1]).abs())
        assert error((actual[1] - exact[1]).abs()) <= bound
    assert actual[0].dtype == torch.float32
    assert actual[1].dtype == dtype


def test_half_gradients_survive_loss_scaling():
    """grad_output and 1/B are applied before the only rounding: no underflow under a GradScaler."""
    logits, labels, _, _, beta = inputs(256, 1000, torch.float16)
    logits.requires_grad_()
    loss = sprout_loss(logits, labels, None, None, beta, STATE, beta_grad="none")
    (loss * 65536).backward()
    exact = logits.detach().double().requires_grad_()
    reference.sprout_loss(exact, labels, None, None, beta, STATE, beta_grad="none").backward()
    scaled = exact.grad * 65536
    # fp16 has 11 bits; its smallest normal number is 6e-5.
    torch.testing.assert_close(logits.grad.double(), scaled, rtol=2**-10, atol=4e-6)


def test_large_and_masked_logits():
    logits, labels, partner_labels, lam, beta = inputs(8, 20)
    shifted = gradients(sprout_loss, logits + 1e4, labels, partner_labels, lam, beta)
    exact = gradients(
        reference.sprout_loss, (logits + 1e4).double(), labels, partner_labels, lam, beta
    )
    for got, expected in zip(shifted, exact, strict=True):
        torch.testing.assert_close(got.double(), expected.double(), rtol=1e-4, atol=1e-5)
    masked = logits.clone()
    masked[:, 5] = -torch.inf  # an excluded class, the label of no row
    labels, partner_labels = labels % 5, partner_labels % 5
    beta[5] = 0
    value, by_logits, _ = gradients(sprout_loss, masked, labels, partner_labels, lam, beta)
    assert value.isfinite() and by_logits.isfinite().all()
    assert (by_logits[:, 5] == 0).all()


def test_zero_concentrations():
    logits, labels, _, _, beta = inputs(4, 5)
    value, _, by_beta = gradients(
        sprout_loss, logits, labels, None, None, torch.zeros(5), reduction="none"
    )
    # All mass is on the label: hard-label cross entropy, and beta = 0 has no gradient.
    torch.testing.assert_close(value, F.cross_entropy(logits, labels, reduction="none"))
    assert (by_beta[~torch.isin(torch.arange(5), labels)] == 0).all()
    nothing = sprout_loss(logits, labels, None, None, torch.zeros(5), STATE, alpha=1.0)
    assert nothing.isnan()


@pytest.mark.parametrize("classes", [10, 16, 17, 33, 1000])
@pytest.mark.parametrize("label_mode", ["sample", "mean"])
def test_some_concentrations_zero(classes, label_mode):
    """GCC 12 drops the last vector lane of sums that skip zeros (keep_if in csrc/ops/cpu/row.h)."""
    arguments = inputs(6, classes)
    beta = arguments[-1]
    beta[torch.rand(classes, generator=torch.Generator().manual_seed(5)) < 0.5] = 0
    options = dict(label_mode=label_mode, alpha=0.5, reduction="none")
    actual = gradients(sprout_loss, *arguments, **options)
    exact = gradients(reference.sprout_loss, arguments[0].double(), *arguments[1:], **options)
    torch.testing.assert_close(actual[0].double(), exact[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(actual[1].double(), exact[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("label_mode", ["sample", "mean"])
@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1e20, 1e30])
def test_extreme_scales(scale, label_mode):
    """The largest variate is kept however small or large it is: these losses used to be NaN."""
    arguments = inputs(16, 10)
    options = dict(scale=scale, alpha=0.1, label_mode=label_mode, reduction="none")
    actual = sprout_loss(*arguments, STATE, **options)
    expected = reference.sprout_loss(*arguments, STATE, **options)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_implicit_gradient_is_unbiased(recipe, classes):
    """The mean over 20,000 draws equals the closed form (c_k - E[L]) / a_0.

    Classes are pooled with the closed form as weights, since at K = 1000 the noise exceeds the
    gradient of any single class. The mean of 100 estimates must be within 5.5 standard errors: the
    6 cases raise a false alarm once in 500,000 seeds.
    """
    alpha, scale = RECIPES[recipe]
    logits, labels, _, _, beta = inputs(1, classes)
    beta = beta * 10 / classes + 1e-3 / classes
    b = beta.clone().requires_grad_()
    exact = reference.sprout_loss(
        logits, labels, None, None, b, STATE, alpha=alpha, scale=scale, label_mode="mean"
    )
    closed_form = torch.autograd.grad(exact, b)[0].double()
    some = (logits.expand(200, -1), labels.expand(200), None, None)
    estimates = []
    for i in range(100):
        b = beta.clone().requires_grad_()
        loss = sprout_loss(*some, b, torch.tensor([4, i, 0]), alpha=alpha, scale=scale)
        estimates.append(torch.autograd.grad(loss, b)[0].double() @ closed_form)
    estimates = torch.stack(estimates)
    standard_error = estimates.std() / 10
    size = closed_form @ closed_form
    assert abs(estimates.mean() - size) < 5.5 * standard_error
    assert size > 15 * standard_error  # a third of the gradient missing would be detected


def test_implicit_gradient_of_one_variate_against_mpmath():
    """Two classes: z = G1/(G1 + G2), with the derivative of the CDF to 30 digits."""
    mpmath.mp.dps = 30
    logits = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    labels = torch.tensor([0])
    checked = 0
    for offset in range(12):
        state = torch.tensor([11, offset, 0])
        beta = torch.tensor([0.7 * offset + 0.05, 3.0], requires_grad=True)
        loss = sprout_loss(logits, labels, None, None, beta, state, alpha=0.5, scale=2.0)
        (grad,) = torch.autograd.grad(loss, beta)
        a = concentrations(labels, None, None, beta.detach(), alpha=0.5, scale=2.0)
        log_g = reference.log_gamma(a, state)
        z = torch.softmax(log_g, 1)[0].tolist()
        cost = (-F.log_softmax(logits, 1))[0].tolist()
        for k in range(2):
            x, concentration = mpmath.exp(log_g[0, k].item()), mpmath.mpf(a[0, k].item())
            slope = mpmath.diff(lambda s, x=x: mpmath.gammainc(s, 0, x, True), concentration)
            density = x ** (concentration - 1) * mpmath.exp(-x) / mpmath.gamma(concentration)
            w = -slope / (x * density)
            expected = z[k] * (cost[k] - loss.item()) * w  # scale * alpha = 1
            assert grad[k].item() == pytest.approx(float(expected), rel=2e-6)
            checked += 1
    assert checked == 24


def test_ranks_draw_the_numbers_of_one_rank():
    arguments = inputs(6, 11)
    logits, labels, partner_labels, lam, beta = arguments
    whole = sprout_loss(*arguments, torch.tensor([5, 1, 0]), reduction="none")
    half = sprout_loss(
        logits[3:], labels[3:], partner_labels[3:], lam[3:], beta, torch.tensor([5, 1, 3]),
        reduction="none",
    )  # fmt: skip
    assert torch.equal(whole[3:], half)


@pytest.mark.parametrize("classes", [10, 1000])
def test_does_not_depend_on_threads(classes):
    arguments = inputs(33, classes)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = gradients(sprout_loss, *arguments)
        torch.set_num_threads(2)
        for a, b in zip(one, gradients(sprout_loss, *arguments), strict=True):
            assert torch.equal(a, b)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_second_backward(dtype, reduction):
    """The first hands out the gradients of the forward pass; the second has to draw again."""
    logits, *rest, beta = inputs(9, 20, dtype)
    logits.requires_grad_()
    beta.requires_grad_()
    loss = sprout_loss(logits, *rest, beta, STATE, reduction=reduction)
    weight = torch.arange(1.0, 10.0) if reduction == "none" else torch.tensor(3.0)
    results = [
        torch.autograd.grad(loss, (logits, beta), weight, retain_graph=True) for _ in range(2)
    ]
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second)
    assert results[0][0].abs().max() > 0 and results[0][1].abs().max() > 0


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_batched_backward(reduction):
    """Several gradients of the loss at once, which cannot be scaled in the same memory."""
    logits, *rest, beta = inputs(9, 20)
    wanted = [logits.requires_grad_(), beta.requires_grad_()]

    def grads(*weights, **options):
        loss = sprout_loss(logits, *rest, beta, STATE, reduction=reduction)
        return torch.autograd.grad(loss, wanted, *weights, **options)

    weights = torch.tensor([1.0, -2.0]).reshape(2, *[1] * (reduction == "none"))
    weights = weights.expand(2, *[9] * (reduction == "none"))
    together = grads(weights, is_grads_batched=True)
    for actual, *expected in zip(together, *map(grads, weights), strict=True):
        torch.testing.assert_close(actual, torch.stack(expected))


def test_no_gradient_reaches_the_loss():
    class Drop(torch.autograd.Function):
        @staticmethod
        def forward(ctx, loss):
            return loss.clone()

        @staticmethod
        def backward(ctx, grad):
            return None

    logits, *rest = inputs(3, 4)
    Drop.apply(sprout_loss(logits.requires_grad_(), *rest, STATE)).backward()
    assert logits.grad is None or not logits.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("classes", [4, 2000])  # with and without the gradient in forward
def test_gradient_of_beta_from_forward_has_no_graph(dtype, classes):
    logits, *rest, beta = inputs(3, classes, dtype)
    leaf = beta.requires_grad_()
    arguments = SproutLossArguments(logits.requires_grad_(), *rest, leaf, STATE)
    loss, grad_beta = sprout_loss_and_grad_beta(arguments)
    assert grad_beta.shape == (classes,) and not grad_beta.requires_grad
    loss.backward()
    assert logits.grad is not None and leaf.grad is None


def training_arguments(arguments, weight=1.0, step=(), **changed):
    """Return the arguments of the op of a training step, by name."""
    names = ("logits", "labels", "partner_labels", "lam", "beta")
    classes = arguments[0].shape[1]
    g = torch.Generator().manual_seed(classes)
    grad_sum, velocity = torch.randn(2, classes, generator=g)
    state = dict(rng=STATE[:2].clone(), first_row=STATE[2:].clone(), alpha=0.2, scale=2.0)
    options = dict(label_mode="sample", beta_grad="implicit", grad_sum=grad_sum, weight=weight)
    rest = dict(velocity=velocity, lr_factor=torch.tensor(0.5), step=list(step))
    given = dict(zip(names, arguments, strict=True))
    return given | state | options | rest | dict(return_grad_logits=False) | changed


@pytest.mark.parametrize("label_mode", ["sample", "mean"])
@pytest.mark.parametrize("beta_grad", ["implicit", "expected"])
@pytest.mark.parametrize("momentum, largest", [(0.0, torch.inf), (0.9, 3.0)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_training_step_is_the_loss_and_the_references_step(
    label_mode, beta_grad, momentum, largest, dtype
):
    for batch, classes in ((1, 1), (64, 10), (17, 33), (8, 1000)):
        *batch_of, beta = inputs(batch, classes, dtype)
        beta += 0.1
        largest_total = largest * classes / 5
        step = (4.0, 0.7, momentum, 0.01, 0.1, largest_total)
        given = training_arguments(
            (*batch_of, beta.clone()), 2.0, step, label_mode=label_mode, beta_grad=beta_grad
        )
        expected = [given[n].clone() for n in ("beta", "grad_sum", "velocity", "lr_factor")]
        loss, used_beta, used_rng, row_stats, _ = torch.ops.sprout_fast.sprout_loss_(**given)
        assert torch.equal(used_beta, beta) and torch.equal(used_rng, STATE)
        assert given["rng"].tolist() == [STATE[0], STATE[1] + 1]
        options = (0.2, 2.0, label_mode, beta_grad, "mean", True, False)
        wanted = torch.ops.sprout_fast.sprout_loss(*batch_of, beta, STATE, *options)
        assert torch.equal(loss, wanted[0]) and torch.equal(row_stats, wanted[2])
        expected[1] += 2 * wanted[1]
        step_beta_(*expected, step)
        for name, value in zip(("beta", "grad_sum", "velocity"), expected, strict=False):
            torch.testing.assert_close(given[name], value, rtol=2e-5, atol=2e-6)


def test_a_training_step_accumulates_without_a_step():
    arguments = inputs(9, 4)
    once, twice = (training_arguments(arguments, weight) for weight in (6.0, 3.0))
    torch.ops.sprout_fast.sprout_loss_(**once)
    for rng in (STATE[:2].clone(), STATE[:2].clone()):
        torch.ops.sprout_fast.sprout_loss_(**twice | dict(rng=rng))
    torch.testing.assert_close(once["grad_sum"], twice["grad_sum"])
    assert torch.equal(once["beta"], arguments[4])


def tensors_of(given):
    return {name: value.clone() for name, value in given.items() if isinstance(value, torch.Tensor)}


def test_a_training_step_without_a_gradient_of_beta_draws_only():
    given = training_arguments(inputs(9, 4), 1.0, (1.0, 1.0, 0.9, 0.1, 0.0, 9.0), beta_grad="none")
    before = tensors_of(given)
    torch.ops.sprout_fast.sprout_loss_(**given)
    changed = {name for name, value in before.items() if not torch.equal(value, given[name])}
    assert changed == {"rng"}


@pytest.mark.parametrize(
    "message, changed",
    [
        ("labels must be in [0, 4), got 4", {"labels": torch.full((9,), 4)}),
        ("rng must be int64 [2] = (seed, offset)", {"rng": STATE}),
        ("first_row must be int64 [1]", {"first_row": STATE}),
        ("beta must be contiguous", {"beta": torch.ones(8)[::2]}),
        ("beta must be float32 [K]", {"beta": torch.ones(4).double()}),
        ("grad_sum must be float32 [K]", {"grad_sum": torch.ones(5)}),
        ("velocity must be float32 [K]", {"velocity": torch.ones(5)}),
        ("lr_factor must be a float32 scalar", {"lr_factor": torch.ones(1)}),
        ("step must be empty or (divisor > 0, ", {"step": [1.0]}),
        ("step must be empty or (divisor > 0, ", {"step": [0.0] * 6}),
        ("step must be empty or (divisor > 0, ", {"step": [1.0, 1.0, math.nan, 0.0, 0.0, 1.0]}),
        ("alpha must be in [0, 1], got 2", {"alpha": 2.0}),
        ("logits must be float32 or float64 on CPU", {"return_grad_logits": True,
                                                       "logits": torch.zeros(9, 4).half()}),
    ],
)  # fmt: skip
def test_wrong_arguments_of_a_training_step_change_nothing(message, changed):
    given = training_arguments(inputs(9, 4), 1.0, (1.0, 1.0, 0.9, 0.1, 0.0, 9.0)) | changed
    before = tensors_of(given)
    with pytest.raises(RuntimeError) as error:
        torch.ops.sprout_fast.sprout_loss_(**given)
    assert "sprout_fast::sprout_loss_: " + message in str(error.value)
    assert all(torch.equal(value, given[name]) for name, value in before.items())


def test_opcheck_of_a_training_step():
    step = [1.0, 1.0, 0.9, 0.1, 0.0, 9.0]
    for options in (dict(step=step), dict(return_grad_logits=True), dict(beta_grad="none")):
        given = training_arguments(inputs(5, 7)) | options
        torch.library.opcheck(torch.ops.sprout_fast.sprout_loss_.default, tuple(given.values()))
    alone = (*torch.rand(3, 7), torch.tensor(0.5), step)
    torch.library.opcheck(torch.ops.sprout_fast.sprout_loss_step_.default, alone)
    with pytest.raises(RuntimeError, match="sprout_loss_step_: step must not be empty"):
        torch.ops.sprout_fast.sprout_loss_step_(*alone[:4], [])


def test_opcheck():
    op = torch.ops.sprout_fast.sprout_loss.default
    for classes, options in (
        (7, ("sample", "implicit", "mean", True, False)),
        (7, ("sample", "implicit", "mean", True, True)),
        (7, ("mean", "none", "none", False, True)),
        (7, ("sample", "expected", "sum", True, True)),
    ):
        logits, *rest, beta = inputs(5, classes)
        logits.requires_grad_()
        torch.library.opcheck(op, (logits, *rest, beta, STATE, 0.01, 1.0, *options))
    logits, labels, _, _, beta = inputs(5, 7, torch.bfloat16)
    torch.library.opcheck(
        op,
        (logits, labels, None, None, beta, STATE, 0.01, 1.0, "mean", "none", "mean", False, False),
    )


def test_compiles_to_one_graph():
    arguments = inputs(8, 10)

    def f(logits, labels, partner_labels, lam, beta):
        return sprout_loss(logits * 2, labels, partner_labels, lam, beta, STATE)

    compiled = torch.compile(f, fullgraph=True)
    results = gradients(lambda *a, **_: compiled(*a[:5]), *arguments)
    expected = gradients(lambda *a, **_: f(*a[:5]), *arguments)
    for actual, theirs in zip(results, expected, strict=True):
        torch.testing.assert_close(actual, theirs)


def test_second_derivative_is_refused():
    logits, *rest = inputs(3, 4)
    logits.requires_grad_()
    (g,) = torch.autograd.grad(sprout_loss(logits, *rest, STATE), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="sprout_loss has no second derivative"):
        g.sum().backward()


def test_empty_batch():
    logits, labels, partner_labels, lam, beta = inputs(0, 4)
    assert sprout_loss(logits, labels, None, None, beta, STATE).isnan()
    assert sprout_loss(logits, labels, None, None, beta, STATE, reduction="sum") == 0
    assert sprout_loss(logits, labels, None, None, beta, STATE, reduction="none").shape == (0,)


LOGITS, LABELS, BETA = torch.zeros(2, 3), torch.tensor([0, 2]), torch.ones(3)
WRONG = {
    "logits must be float64, float32, bfloat16 or float16 [B, K], got float32 [3]": dict(
        logits=torch.zeros(3)
    ),
    "logits must be float64, float32": dict(logits=torch.zeros(2, 3, dtype=torch.int64)),
    "logits must have at least one class": dict(logits=torch.zeros(2, 0)),
    "logits must be float64, float32, bfloat16 or float16 [B, K], got None": dict(logits=None),
    "labels must be int64 [B]": dict(labels=torch.tensor([0.0, 1.0])),
    "labels must be int64 [B] on the device of the first argument (float32 [2, 3] on cpu), got "
    "None": dict(labels=None),
    "beta must be on the device of logits (cpu), got meta": dict(beta=BETA.to("meta")),
    "labels must be in [0, 3), got 3 at index 0": dict(labels=torch.tensor([3, 0])),
    "labels must be in [0, 3), got -1 at index 1": dict(labels=torch.tensor([0, -1])),
    "partner_labels and lam must be given together": dict(lam=torch.tensor([0.5])),
    "partner_labels must be in [0, 3)": dict(
        partner_labels=torch.tensor([0, 9]), lam=torch.tensor([0.5])
    ),
    "lam must be in [0, 1], got 2": dict(partner_labels=LABELS, lam=torch.tensor([2.0])),
    "lam must be float32 [2] or [1]": dict(
        partner_labels=LABELS, lam=torch.tensor([0.5], dtype=torch.float64)
    ),
    "beta must be float32 [K]": dict(beta=torch.ones(4)),
    "beta must be finite and at least 0, got -1": dict(beta=torch.tensor([1.0, -1.0, 1.0])),
    "beta must be finite and at least 0, got nan": dict(beta=torch.tensor([1.0, torch.nan, 1.0])),
    "beta must be finite and at least 0, got inf": dict(beta=torch.tensor([1.0, torch.inf, 1.0])),
    "rng_state must be int64 [3]": dict(rng_state=torch.zeros(3)),
    "alpha must be in [0, 1], got 1.5": dict(alpha=1.5),
    "scale must be in [1e-30, 1e30], got 0": dict(scale=0.0),
    "scale must be in [1e-30, 1e30], got 1e+38": dict(scale=1e38),
    "label_mode must be 'sample' or 'mean', got 'median'": dict(label_mode="median"),
    "beta_grad must be 'implicit'": dict(beta_grad="exact"),
    "reduction must be 'mean'": dict(reduction="max"),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments_are_named(message):
    arguments = (
        dict(
            logits=LOGITS, labels=LABELS, partner_labels=None, lam=None, beta=BETA, rng_state=STATE
        )
        | WRONG[message]
    )
    with pytest.raises(RuntimeError) as error:
        sprout_loss(**arguments)
    assert "sprout_fast::sprout_loss: " in str(error.value)
    assert message in str(error.value)


def test_nan_logits_give_nan():
    logits, labels, _, _, beta = inputs(3, 4)
    logits[1, 2] = torch.nan
    value = sprout_loss(logits, labels, None, None, beta, STATE, reduction="none")
    assert value.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("beta, alpha, scale", [(3e38, 0.01, 1e30), (1e-37, 1.0, 1.0)])
@pytest.mark.parametrize("label_mode", ["sample", "mean"])
@pytest.mark.parametrize("beta_grad", ["implicit", "expected"])
@pytest.mark.parametrize("classes", [10, 40])
def test_concentrations_out_of_range_give_nan(beta, alpha, scale, label_mode, beta_grad, classes):
    """The loss and both gradients: in the past only some of them were NaN."""
    if beta_grad == "implicit" and label_mode == "mean":
        beta_grad = "none"
    arguments = (*inputs(3, classes)[:4], torch.full((classes,), beta))
    arguments[4][: classes // 2] = arguments[4][: classes // 2] if beta < 1 else 1.0
    options = dict(alpha=alpha, scale=scale, label_mode=label_mode, beta_grad=beta_grad)
    assert all(x.isnan().all() for x in gradients(sprout_loss, *arguments, **options))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("first_row", [24870613, 51452642])
def test_nothing_is_drawn_before_the_row(first_row, dtype):
    """The random word of the element 3 (2) before the row is among the largest 2^8 of 2^32."""
    logits, state = torch.zeros(1, 31, dtype=dtype), torch.tensor([0, 0, first_row])
    loss = sprout_loss(logits, torch.tensor([0]), None, None, torch.ones(31), state, alpha=0.5)
    assert loss.item() == pytest.approx(math.log(31))


def assert_close_to_float64(*inputs, rtol, **options):
    """Compare loss and gradients in float32 with float64, relative to their largest entries."""
    logits, *rest = inputs
    actual = gradients(sprout_loss, logits, *rest, **options)
    exact = gradients(sprout_loss, logits.double(), *rest, **options)
    for got, want in zip(actual, exact, strict=True):
        torch.testing.assert_close(
            got.double(), want.double(), rtol=0, atol=rtol * want.abs().max().item()
        )


def test_rows_that_draw_few_classes():
    """Most variates are negligible, and a row spans several chunks of the CPU kernel."""
    logits, _, partner_labels, lam, beta = inputs(6, 3000)
    labels = torch.tensor([0, 1023, 1024, 2047, 2048, 2999])
    assert_close_to_float64(logits, labels, partner_labels, lam, beta / 5, rtol=1e-4)
    assert_close_to_float64(logits, labels, None, None, beta / 5, rtol=1e-4)


def test_variates_far_above_1():
    """Their exponentials are computed relative to the row's largest."""
    assert_close_to_float64(*inputs(6, 40), rtol=1e-3, alpha=0.3, scale=1e10)


def test_gradient_of_a_label_without_mass():
    """With lam = 0 and beta = 0 the label has concentration 0: its gradient is 0, not NaN."""
    logits, labels, partner_labels, _, beta = inputs(8, 10)
    beta[labels[0]] = 0
    lam = torch.zeros(1)
    _, grad_logits, grad_beta = gradients(sprout_loss, logits, labels, partner_labels, lam, beta)
    assert grad_logits.isfinite().all() and grad_beta.isfinite().all()
