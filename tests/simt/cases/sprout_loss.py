"""Cases of sprout_loss and its backward pass."""

from __future__ import annotations

import torch
from helpers.op_inputs import STATE

from simt.cases.common import FLOATS, assert_same, case, compare_scaled, cpu, weights_of
from simt.harness import misaligned

RECIPES = {"paper": (0.01, 1.0), "code": (1 / 11, 11.0)}


def loss_inputs(batch, classes, dtype=torch.float32):
    g = torch.Generator().manual_seed(batch + 7919 * classes)
    return [
        (3 * torch.randn(batch, classes, generator=g, dtype=torch.float64)).to(dtype),
        torch.randint(classes, (batch,), generator=g),
        torch.randint(classes, (batch,), generator=g),
        torch.rand(batch, generator=g),
        torch.rand(classes, generator=g),
    ]


def without(options, *names):
    return {name: value for name, value in options.items() if name not in names}


def run_loss(simt, logits, labels, partner_labels, lam, beta, state=STATE, **options):
    """Run the kernels of the forward and the backward pass."""
    inputs = (logits, labels, partner_labels, lam, beta, state)
    loss, forward_beta, row_stats = simt.sprout_loss(*inputs, **options)
    options = without(options, "max_shared_bytes", "return_grad_beta")
    grad_logits, backward_beta = simt.sprout_loss_backward(
        weights_of(loss), *inputs, row_stats=row_stats, **options
    )
    return loss, forward_beta, comparable(row_stats), grad_logits, backward_beta


def comparable(row_stats):
    """Combine log sum_k G_k from its two parts, since each device chooses its own offset."""
    row_stats = row_stats.clone()
    row_stats[:, 3] += row_stats[:, 4].log()
    row_stats[:, 4] = 0
    return row_stats


def run_loss_on_cpu(logits, labels, partner_labels, lam, beta, state=STATE, *, alpha=0.01,
                    scale=1.0, label_mode="sample", beta_grad="implicit",
                    reduction="mean", return_grad_beta=True):  # fmt: skip
    inputs = (logits, labels, partner_labels, lam, beta, state)
    options = (alpha, scale, label_mode, beta_grad, reduction)
    loss, forward_beta, row_stats, _ = cpu.sprout_loss(*inputs, *options, return_grad_beta, False)
    grad_logits, backward_beta = cpu.sprout_loss_backward(
        *inputs, *options, row_stats, weights_of(loss)
    )
    return loss, forward_beta, comparable(row_stats), grad_logits, backward_beta


def check_loss(simt, inputs, state=STATE, **options):
    actual = run_loss(simt, *inputs, state, **options)
    on_cpu = without(options, "max_shared_bytes")
    compare_scaled(actual, run_loss_on_cpu(*inputs, state, **on_cpu))
    return actual


@case(
    classes=[1, 2, 3, 5, 31, 32, 33, 253, 256, 257, 512, 513, 1000, 1023, 1024, 1025, 4099],
    recipe=RECIPES,
    dtype=[torch.float32, torch.float64],
)
def loss_classes(simt, classes, recipe, dtype):
    """K around the numbers of threads per row (2 to 256, with one packet of 4 each at first)."""
    alpha, scale = RECIPES[recipe]
    inputs = loss_inputs(2 if classes > 1000 else 3, classes, dtype)
    check_loss(simt, inputs, alpha=alpha, scale=scale)


@case(classes=[3, 257, 1025, 8193], beta_grad=["implicit", "expected", "none"])
def loss_without_shared_memory(simt, classes, beta_grad):
    """Rows that do not fit are read twice; from 8193 classes on several blocks share a row."""
    check_loss(simt, loss_inputs(3, classes), beta_grad=beta_grad, max_shared_bytes=0)
    check_loss(simt, loss_inputs(2, classes), beta_grad=beta_grad, return_grad_beta=False)


@case(classes=[14400, 14401, 100_000])
def loss_many_classes(simt, classes):
    """The first fits the shared memory of an H100 exactly."""
    inputs = loss_inputs(1, classes)
    check_loss(simt, (*inputs[:4], inputs[4] * 10 / classes))


@case(
    classes=[33, 257],
    label_mode=["sample", "mean"],
    beta_grad=["implicit", "expected", "none"],
    reduction=["mean", "sum", "none"],
)
def loss_modes(simt, classes, label_mode, beta_grad, reduction):
    logits, labels, partner_labels, lam, beta = loss_inputs(3, classes)
    options = dict(label_mode=label_mode, beta_grad=beta_grad, reduction=reduction, alpha=0.2)
    check_loss(simt, (logits, labels, partner_labels, lam, beta), **options)
    check_loss(simt, (logits, labels, partner_labels, lam[:1], beta), **options)
    check_loss(simt, (logits, labels, None, None, beta), **options)


@case(classes=[10, 300], dtype=FLOATS)
def loss_dtypes(simt, classes, dtype):
    logits, *rest = loss_inputs(4, classes, dtype)
    check_loss(simt, (logits, *rest))
    aligned = run_loss(simt, logits, *rest)
    for a, b in zip(run_loss(simt, misaligned(logits), *rest), aligned, strict=True):
        assert_same(a, b)


@case(batch=[0, 1, 4, 63, 64, 65, 257], reduction=["mean", "sum", "none"])
def loss_batches(simt, batch, reduction):
    """Batches around the rows of a block and the threads of the last sum."""
    if batch > 0:
        check_loss(simt, loss_inputs(batch, 3), reduction=reduction)
        return
    actual = run_loss(simt, *loss_inputs(0, 3), reduction=reduction)
    assert_same(actual[0], run_loss_on_cpu(*loss_inputs(0, 3), reduction=reduction)[0])
    assert (actual[1] == 0).all() and (actual[4] == 0).all()  # no row contributes


@case(first_row=[0, 1, 2, 3, 2**33 + 1, -1])
def loss_first_rows(simt, first_row):
    for classes in (7, 301):
        check_loss(simt, loss_inputs(3, classes), torch.tensor([9, 2**32 + 5, first_row]))


STEP = (1.0, 0.5, 0.9, 0.01, 0.05, torch.inf)  # the last one: the largest total


def training_state(classes):
    """Return beta, rng, first_row, grad_sum, weight, velocity and lr_factor."""
    g = torch.Generator().manual_seed(classes)
    beta, grad_sum, velocity = torch.rand(3, classes, generator=g)
    return [
        beta + 0.06, torch.tensor([7, 2**32 - 1]), torch.tensor([3]), grad_sum - 0.5, 2.0,
        velocity - 0.5, torch.tensor(0.75),
    ]  # fmt: skip


def copied(values):
    return [v.clone() if isinstance(v, torch.Tensor) else v for v in values]


def check_training_step(simt, inputs, state, step, **options):
    """Compare the loss and the whole state with those of the CPU op."""
    ours, theirs = copied(state), copied(state)
    own = without(options, "max_shared_bytes", "seed")
    got = simt.sprout_loss_(*inputs, *ours, step, **options)
    want = cpu.sprout_loss_(
        *inputs, *theirs[:3], own.get("alpha", 0.01), own.get("scale", 1.0),
        own.get("label_mode", "sample"), own.get("beta_grad", "implicit"), *theirs[3:], step, False,
    )  # fmt: skip
    compare_scaled([got[0], comparable(got[3])], [want[0], comparable(want[3])])
    compare_scaled([ours[0], *ours[3:4], ours[5]], [theirs[0], *theirs[3:4], theirs[5]])
    assert_same(got[1], state[0])
    assert_same(got[2], torch.cat([state[1], state[2]]))
    assert_same(ours[1], theirs[1])
    return ours


@case(
    classes=[1, 5, 33, 257, 513, 1000, 1025],
    total=[torch.inf, 0.5],
    accumulates=[False, True],
    dtype=[torch.float32, torch.float64],
)
def loss_training_step(simt, classes, total, accumulates, dtype):
    """Classes around the finish kernel's threads; groups that it sums or another kernel did."""
    inputs = loss_inputs(9, classes, dtype)[:4]
    step = () if accumulates else (*STEP[:5], total * classes)
    state = training_state(classes)
    ours = check_training_step(simt, inputs, state, step)
    assert (ours[0] == state[0]).all() == accumulates
    if not accumulates:
        assert (ours[3] == 0).all() and ours[0].sum() <= (total + 0.05) * classes


@case(label_mode=["sample", "mean"], beta_grad=["implicit", "expected", "none"])
def loss_training_step_modes(simt, label_mode, beta_grad):
    options = dict(label_mode=label_mode, beta_grad=beta_grad, alpha=0.2)
    for classes, dtype in ((10, torch.float16), (300, torch.bfloat16)):
        logits, labels, partner_labels, lam, _ = loss_inputs(4, classes, dtype)
        for pair in ((partner_labels, lam), (None, None)):
            state = training_state(classes)
            check_training_step(simt, (logits, labels, *pair), state, STEP, **options)


@case(batch=[0, 1, 600], classes=[3, 9])
def loss_training_step_batches(simt, batch, classes):
    """More rows than the finish kernel has threads, and none."""
    check_training_step(simt, loss_inputs(batch, classes)[:4], training_state(classes), STEP)


@case(classes=[1025, 8193])
def loss_training_step_without_shared_memory(simt, classes):
    inputs, state = loss_inputs(2, classes)[:4], training_state(classes)
    check_training_step(simt, inputs, state, STEP, max_shared_bytes=0)


@case(value=[torch.nan, torch.inf], classes=[5, 600])
def loss_training_step_not_finite(simt, value, classes):
    """A gradient that is not finite in one class skips the step in all, but not the state."""
    inputs, state = loss_inputs(3, classes)[:4], training_state(classes)
    state[3][classes - 1] = value
    ours = check_training_step(simt, inputs, state, STEP)
    assert_same(ours[0], state[0]), assert_same(ours[5], state[5])
    assert (ours[3] == 0).all() and ours[1][1] == state[1][1] + 1


@case(classes=[5, 600, 1100], total=[torch.inf, 0.5])
def loss_step_alone(simt, classes, total):
    step = (4.0, *STEP[1:5], total * classes)
    beta, _, _, grad_sum, _, velocity, lr_factor = training_state(classes)
    ours, theirs = (copied([beta, grad_sum, velocity, lr_factor]) for _ in range(2))
    simt.sprout_loss_step_(*ours, step)
    cpu.sprout_loss_step_(*theirs, step)
    compare_scaled(ours, theirs)


@case(classes=[5, 300], label_mode=["sample", "mean"])
def loss_odd_logits(simt, classes, label_mode):
    """Excluded classes, huge and infinite logits, NaN, zero concentrations."""
    logits, labels, partner_labels, lam, beta = loss_inputs(6, classes)
    labels, partner_labels = labels % 3, partner_labels % 3
    logits[0] += 1e4
    logits[1, 4] = -torch.inf
    logits[2, 3] = torch.nan
    logits[3, 3] = torch.inf
    logits[4] = -torch.inf
    beta[4] = 0
    options = dict(label_mode=label_mode, reduction="none")
    inputs = (logits, labels, partner_labels, lam, beta)
    actual = run_loss(simt, *inputs, **options)
    # A float32 logit of 1e4 has a precision of 1e-3, and so have the softmax values.
    for got, want in zip(actual, run_loss_on_cpu(*inputs, **options), strict=True):
        torch.testing.assert_close(got, want, rtol=2e-3, atol=2e-3, equal_nan=True)
    finite = [0, 1, 5]
    assert actual[0].isfinite().nonzero().flatten().tolist() == finite
    check_loss(simt, [t[finite[1:]] for t in inputs[:4]] + [beta], **options)
    check_loss(simt, (logits[5:], labels[5:], None, None, torch.zeros(classes)), **options)
    nothing = run_loss(simt, *inputs[:4], torch.zeros(classes), alpha=1.0, **options)
    assert nothing[0].isnan().all()


@case(classes=[5, 300], label_mode=["sample", "mean"], beta_grad=["implicit", "expected"])
def loss_wrong_values(simt, classes, label_mode, beta_grad):
    """An out-of-range label or lam makes its row NaN, and with it the gradient of beta."""
    inputs = loss_inputs(9, classes)
    logits, labels, partner_labels, lam, beta = [t.clone() for t in inputs]
    labels[1], labels[2], labels[3] = classes, -1, 2**62
    partner_labels[4], partner_labels[5] = classes, -(2**63)
    lam[6], lam[7] = torch.nan, 1e30
    options = dict(label_mode=label_mode, beta_grad=beta_grad, reduction="none")
    actual = run_loss(simt, logits, labels, partner_labels, lam, beta, **options)
    expected = list(run_loss_on_cpu(*inputs, **options))
    for t in (expected[0], expected[3]):
        t[1:8] = torch.nan
    compare_scaled([actual[0], actual[3]], [expected[0], expected[3]])
    assert actual[1].isnan().all() and actual[4].isnan().all()
    twice = run_loss(simt, logits, labels, partner_labels, lam, beta, **options, max_shared_bytes=0)
    compare_scaled([twice[0], twice[3]], [expected[0], expected[3]])
    assert twice[1].isnan().all() and twice[4].isnan().all()


@case(
    value=[-1.0, torch.nan, torch.inf, -torch.inf],
    classes=[5, 300],
    label_mode=["sample", "mean"],
    beta_grad=["implicit", "expected"],
)
def loss_wrong_beta(simt, value, classes, label_mode, beta_grad):
    """A negative, infinite or NaN concentration makes its row NaN."""
    logits, labels, partner_labels, lam, beta = loss_inputs(3, classes)
    beta[4] = value
    labels, partner_labels = labels % 3, partner_labels % 3
    loss, forward_beta, _, grad_logits, backward_beta = run_loss(
        simt, logits, labels, partner_labels, lam, beta, label_mode=label_mode,
        beta_grad=beta_grad, reduction="none",
    )  # fmt: skip
    for t in (loss, forward_beta, grad_logits, backward_beta):
        assert t.isnan().all()
