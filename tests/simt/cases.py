"""What the harness runs, by name: each case runs kernels and compares them with the CPU op.

In a module of their own because they run twice: under pytest in the `checked` build and, in a
process that has AddressSanitizer loaded, in the `sanitized` one (tests/simt/jobs.py).

Tolerances. The CPU op and the kernel draw the same integers and do the same arithmetic in another
order (sums over a row by vector lanes there, by threads here; mean and std folded into the weights
there) and with FMA there, without here. That costs a few float32 ulps of the largest term: outputs
of gaussian_mixup reach 6 (ulp 4.8e-7), a row's cost 20 (1.9e-6). Outputs of lower precision may
round a value beside a midpoint to either neighbour: one ulp of theirs. In float64 the same orders
leave 1e-12, where one wrong bit in a Philox word would show.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import torch

import sprout_fast  # noqa: F401 - registers torch.ops.sprout_fast
from simt.harness import Simt, misaligned

cpu = torch.ops.sprout_fast
STATE = torch.tensor([0x1234_5678_9ABC_DEF0, 7, 3])
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
CASES: dict[str, Callable[[Simt], None]] = {}


def case(**sweeps):
    """Registers a function once for each combination of its keyword arguments."""

    def register(function):
        for values in itertools.product(*sweeps.values()):
            options = dict(zip(sweeps, values, strict=True))
            words = [str(v).replace("torch.", "").replace(" ", "") for v in values]
            CASES["-".join([function.__name__, *words])] = functools.partial(function, **options)
        return function

    return register


def assert_near(ours, expected, atol=2e-6, rtol=1e-6):
    assert ours.dtype == expected.dtype and ours.shape == expected.shape
    ulp = {torch.float16: 2**-10, torch.bfloat16: 2**-7}.get(ours.dtype, 0.0)
    if ours.dtype == torch.float64:
        atol, rtol = 1e-6 * atol, 1e-6 * rtol
    torch.testing.assert_close(
        ours.double(), expected.double(), rtol=max(rtol, ulp), atol=atol, equal_nan=True
    )


def assert_same(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)


# sample_mixup


@case(batch=[0, 1, 2, 127, 128, 129, 300], per_sample=[False, True], first_row=[0, 3, 2**40 + 1])
def sample_mixup(simt, batch, per_sample, first_row):
    for offset in (0, 2**32 - 1):
        state = torch.tensor([-5, offset, first_row])
        partner, lam = simt.sample_mixup(batch, state, per_sample=per_sample, seed=offset)
        expected_partner, expected_lam = cpu.sample_mixup(batch, state, 0.2, per_sample)
        assert torch.equal(partner, expected_partner)
        assert_near(lam, expected_lam)


# gaussian_mixup


def images_of(shape, dtype):
    g = torch.Generator().manual_seed(1)
    if dtype == torch.uint8:
        return torch.randint(256, shape, dtype=dtype, generator=g)
    return torch.rand(shape, generator=g).to(dtype)


def mixing(batch):
    """Partners with an image itself and one used twice; lam with both ends."""
    g = torch.Generator().manual_seed(batch)
    partner = torch.randint(batch, (batch,), generator=g)
    partner[0] = 0
    lam = torch.rand(batch, generator=g)
    lam[-1] = 1.0
    lam[batch // 2] = 0.0
    return partner, lam


def channel_options(channels):
    return dict(
        sigma=[0.1 + 0.01 * c for c in range(channels)],
        mean=[0.5 - 0.02 * c for c in range(channels)],
        std=[0.2 + 0.01 * c for c in range(channels)],
    )


def strided(x):
    """The same values behind strides that are neither layout, in a buffer that ends with them."""
    wide = torch.zeros(*x.shape[:3], 2 * x.shape[3], dtype=x.dtype)
    wide[..., 1::2] = x
    return wide[..., 1::2]


LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "misaligned": lambda x: misaligned(x.contiguous(memory_format=torch.channels_last)),
    "strided": strided,
    "broadcast": lambda x: x[:1].expand_as(x),
}


def check_mixup(
    simt, x, partner, lam, state=STATE, dtype=torch.float32, noise="marginal", options=None, **shape
):
    options = options or channel_options(x.shape[1])
    ours = simt.gaussian_mixup(x, partner, lam, state, **options, noise=noise, dtype=dtype, **shape)
    expected = cpu.gaussian_mixup(x, partner, lam, state, *options.values(), noise, dtype)
    assert_near(ours, expected)
    return ours


@case(image_dtype=[torch.uint8, *FLOATS], dtype=FLOATS)
def mixup_dtypes(simt, image_dtype, dtype):
    # 189 elements an image: images begin on any address and any place in a Philox group, and end
    # in a part of a packet.
    x = images_of((4, 3, 7, 9), image_dtype).contiguous(memory_format=torch.channels_last)
    for noise in ("marginal", "paired"):
        check_mixup(simt, x, *mixing(4), dtype=dtype, noise=noise)


@case(image_dtype=[torch.uint8, *FLOATS], dtype=FLOATS)
def mixup_packets(simt, image_dtype, dtype):
    """Whole packets at aligned addresses, more than a block has threads."""
    x = images_of((3, 3, 16, 48), image_dtype).contiguous(memory_format=torch.channels_last)
    for noise in ("marginal", "paired"):
        check_mixup(simt, x, *mixing(3), dtype=dtype, noise=noise)


@case(shape=[(2, 3, 64, 64), (2, 3, 63, 65)])
def mixup_normals_of_16_bit_outputs(simt, shape):
    """By approximate functions, here off by all that is documented: within 1e-5 and rounding."""
    x = torch.zeros(shape).contiguous(memory_format=torch.channels_last)
    options = dict(sigma=[1.0] * 3, mean=[0.0] * 3, std=[1.0] * 3)
    exact = cpu.gaussian_mixup(x, None, None, STATE, *options.values(), "marginal", torch.float64)
    for dtype, rounding in ((torch.float16, 2**-11), (torch.bfloat16, 2**-8)):
        ours = simt.gaussian_mixup(x, None, None, STATE, **options, dtype=dtype)
        torch.testing.assert_close(ours.double(), exact, rtol=1.01 * rounding, atol=1e-5)


@case(
    layout=LAYOUTS,
    noise=["marginal", "paired"],
    shape=[(5, 3, 7, 9), (2, 1, 1, 1), (3, 1, 1, 17), (2, 3, 40, 41), (3, 16, 6, 11), (2, 4, 8, 8)],
)
def mixup_layouts(simt, layout, noise, shape):
    x = LAYOUTS[layout](images_of(shape, torch.uint8))
    check_mixup(simt, x, *mixing(shape[0]), noise=noise, out_misaligned=layout == "misaligned")


@case(batch=[0, 1, 3], height=[0, 5])
def mixup_small_batches(simt, batch, height):
    x = images_of((batch, 3, height, 4), torch.uint8)
    check_mixup(simt, x, None, None)
    if batch > 0:
        check_mixup(simt, x, *mixing(batch))


@case(parts=["nothing", "noise", "mixup", "one_lam"])
def mixup_parts(simt, parts):
    x = images_of((3, 3, 5, 5), torch.float32)
    partner, lam = mixing(3) if parts in ("mixup", "one_lam") else (None, None)
    if parts == "one_lam":
        lam = torch.tensor([0.3])
    options = channel_options(3)
    if parts in ("nothing", "mixup"):
        options["sigma"] = [0.0] * 3
    check_mixup(simt, x, partner, lam, options=options)


@case(first_row=[0, 1, 2, 3, 2**33 + 1, -1], dtype=[torch.float32, torch.float64])
def mixup_first_rows(simt, first_row, dtype):
    """27 elements a row: every place in a Philox group."""
    state = torch.tensor([9, 2**32 + 5, first_row])
    x = images_of((4, 3, 3, 3), torch.uint8)
    for noise in ("marginal", "paired"):
        check_mixup(simt, x, *mixing(4), state=state, dtype=dtype, noise=noise)


@case()
def mixup_other_grids(simt):
    """Blocks and grids of other sizes give the same bits."""
    x = images_of((5, 3, 30, 31), torch.uint8)
    usual = check_mixup(simt, x, *mixing(5))
    for block in (32, 96):
        for rows in (1, 2, 7):
            grid = (-(-2790 // (16 * block)), rows, 1)
            assert_same(check_mixup(simt, x, *mixing(5), block=(block, 1, 1), grid=grid), usual)


@case(noise=["marginal", "paired"])
def mixup_wrong_values(simt, noise):
    """A wild partner or lam makes its image NaN and leaves the others as they are."""
    batch = 9
    x = images_of((batch, 3, 5, 5), torch.uint8)
    partner, lam = mixing(batch)
    wild, wild_lam = partner.clone(), lam.clone()
    wild[1], wild[2], wild[3] = batch, -1, 2**62
    wild_lam[5], wild_lam[6], wild_lam[7] = torch.nan, -1e-3, 1e30
    ours = simt.gaussian_mixup(x, wild, wild_lam, STATE, **channel_options(3), noise=noise)
    expected = cpu.gaussian_mixup(
        x, partner, lam, STATE, *channel_options(3).values(), noise, torch.float32
    )
    expected[[1, 2, 3, 5, 6, 7]] = torch.nan
    assert_near(ours, expected)
    one = simt.gaussian_mixup(x, partner, torch.tensor([2.0]), STATE, **channel_options(3))
    assert one.isnan().all()


def check_mixup_backward(simt, grad, partner, lam, dtype, **shape):
    std = [0.2 + 0.05 * c for c in range(grad.shape[1])]
    ours = simt.gaussian_mixup_backward(grad, partner, lam, std=std, dtype=dtype, **shape)
    expected = cpu.gaussian_mixup_backward(grad, partner, lam, std, dtype)
    if grad.dtype != torch.float64 and dtype == torch.float64:
        ours, expected = ours.float(), expected.float()  # sums were in float32
    assert_near(ours, expected)
    return ours


@case(grad_dtype=FLOATS, dtype=FLOATS)
def mixup_backward_dtypes(simt, grad_dtype, dtype):
    grad = (images_of((5, 3, 4, 5), torch.float64) - 0.5).to(grad_dtype)
    check_mixup_backward(simt, grad, *mixing(5), dtype)


@case(batch=[0, 1, 2, 256, 257], with_mixup=[True, False])
def mixup_backward_batches(simt, batch, with_mixup):
    """Batches around the tile of partners; few elements, so that most threads only scan."""
    grad = images_of((batch, 1, 1, 2), torch.float32) - 0.5
    partner, lam = mixing(batch) if with_mixup and batch else (None, None)
    check_mixup_backward(simt, grad, partner, lam, torch.float32)


@case()
def mixup_backward_other_grids(simt):
    grad = images_of((40, 3, 9, 10), torch.float32) - 0.5
    partner = torch.arange(40) // 3  # three mixtures of an image, in the order of the batch
    usual = check_mixup_backward(simt, grad, partner, torch.tensor([0.25]), torch.float32)
    for block, rows in ((32, 40), (64, 3), (256, 1)):
        other = check_mixup_backward(
            simt, grad, partner, torch.tensor([0.25]), torch.float32,
            block=(block, 1, 1), grid=(-(-270 // block), rows, 1),
        )  # fmt: skip
        assert_same(other, usual)


@case()
def mixup_backward_wrong_values(simt):
    grad = images_of((6, 3, 5, 5), torch.float32)
    partner, lam = torch.tensor([1, 6, -1, 2**62, 4, 0]), torch.full((6,), 0.25)
    lam[5] = 1.5  # of the mixture of images 5 and 0
    ours = simt.gaussian_mixup_backward(grad, partner, lam, std=[1.0] * 3, dtype=torch.float32)
    assert ours.isnan().flatten(1).all(1).tolist() == [True, True, True, True, False, True]
    assert_near(ours[4], grad[4])


# sprout_loss

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
    """Forward and backward by the kernels."""
    inputs = (logits, labels, partner_labels, lam, beta, state)
    loss, forward_beta, row_stats = simt.sprout_loss(*inputs, **options)
    options = without(options, "max_shared_bytes", "return_grad_beta")
    grad_logits, backward_beta = simt.sprout_loss_backward(
        weights_of(loss), *inputs, row_stats=row_stats, **options
    )
    return loss, forward_beta, comparable(row_stats), grad_logits, backward_beta


def comparable(row_stats):
    """With log sum_k G_k for its two parts: what G is measured from is each device's own choice."""
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
        weights_of(loss), *inputs, row_stats, *options
    )
    return loss, forward_beta, comparable(row_stats), grad_logits, backward_beta


def weights_of(loss):
    """A gradient for a loss of any reduction."""
    return torch.linspace(0.5, 2, max(loss.numel(), 1), dtype=loss.dtype)[: loss.numel()].view(
        loss.shape
    )


def check_loss(simt, inputs, state=STATE, **options):
    ours = run_loss(simt, *inputs, state, **options)
    on_cpu = without(options, "max_shared_bytes")
    compare_scaled(ours, run_loss_on_cpu(*inputs, state, **on_cpu))
    return ours


def compare_scaled(ours, expected):
    """As assert_near, by the size of each tensor's largest entry."""
    for got, want in zip(ours, expected, strict=True):
        finite = want[want.isfinite()].abs()
        size = max(1.0, finite.max().item()) if finite.numel() else 1.0
        assert_near(got, want, atol=4e-6 * size, rtol=1e-5)


@case(
    classes=[1, 2, 3, 5, 31, 32, 33, 253, 256, 257, 512, 513, 1000, 1023, 1024, 1025, 4099],
    recipe=RECIPES,
    dtype=[torch.float32, torch.float64],
)
def loss_classes(simt, classes, recipe, dtype):
    """K around the numbers of threads that a row gets (2 to 256, a packet of 4 each at first)."""
    alpha, scale = RECIPES[recipe]
    inputs = loss_inputs(2 if classes > 1000 else 3, classes, dtype)
    check_loss(simt, inputs, alpha=alpha, scale=scale)


@case(classes=[3, 257, 1025, 8193], beta_grad=["implicit", "expected", "none"])
def loss_without_shared_memory(simt, classes, beta_grad):
    """Rows that outgrow it are read twice; from 8193 classes on several blocks share a row."""
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
    """Around the rows of a block, and the threads of the last sum."""
    if batch > 0:
        check_loss(simt, loss_inputs(batch, 3), reduction=reduction)
        return
    ours = run_loss(simt, *loss_inputs(0, 3), reduction=reduction)
    assert_same(ours[0], run_loss_on_cpu(*loss_inputs(0, 3), reduction=reduction)[0])
    assert (ours[1] == 0).all() and (ours[4] == 0).all()  # no row moves beta


@case(first_row=[0, 1, 2, 3, 2**33 + 1, -1])
def loss_first_rows(simt, first_row):
    for classes in (7, 301):
        check_loss(simt, loss_inputs(3, classes), torch.tensor([9, 2**32 + 5, first_row]))


@case(classes=[5, 300], label_mode=["sample", "mean"])
def loss_odd_logits(simt, classes, label_mode):
    """Ruled out classes, huge and infinite logits, NaN, zero concentrations."""
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
    ours = run_loss(simt, *inputs, **options)
    # A float32 logit of 1e4 is known to 1e-3: the rows' softmax agree to that.
    for got, want in zip(ours, run_loss_on_cpu(*inputs, **options), strict=True):
        torch.testing.assert_close(got, want, rtol=2e-3, atol=2e-3, equal_nan=True)
    finite = [0, 1, 5]
    assert ours[0].isfinite().nonzero().flatten().tolist() == finite
    check_loss(simt, [t[finite[1:]] for t in inputs[:4]] + [beta], **options)
    check_loss(simt, (logits[5:], labels[5:], None, None, torch.zeros(classes)), **options)
    nothing = run_loss(simt, *inputs[:4], torch.zeros(classes), alpha=1.0, **options)
    assert nothing[0].isnan().all()


@case(classes=[5, 300], label_mode=["sample", "mean"], beta_grad=["implicit", "expected"])
def loss_wrong_values(simt, classes, label_mode, beta_grad):
    """A wild label or lam makes its row NaN, and beta's gradient, which sums over rows."""
    inputs = loss_inputs(9, classes)
    logits, labels, partner_labels, lam, beta = [t.clone() for t in inputs]
    labels[1], labels[2], labels[3] = classes, -1, 2**62
    partner_labels[4], partner_labels[5] = classes, -(2**63)
    lam[6], lam[7] = torch.nan, 1e30
    options = dict(label_mode=label_mode, beta_grad=beta_grad, reduction="none")
    ours = run_loss(simt, logits, labels, partner_labels, lam, beta, **options)
    expected = list(run_loss_on_cpu(*inputs, **options))
    for t in (expected[0], expected[3]):
        t[1:8] = torch.nan
    compare_scaled([ours[0], ours[3]], [expected[0], expected[3]])
    assert ours[1].isnan().all() and ours[4].isnan().all()
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


# log_gamma


def spread(shape, dtype=torch.float32, low=-5.0, high=5.0):
    """Concentrations, log-uniform between 10^low and 10^high, and a few zeros."""
    g = torch.Generator().manual_seed(torch.Size(shape).numel())
    a = 10 ** (low + (high - low) * torch.rand(shape, generator=g, dtype=torch.float64))
    return torch.where(torch.rand(shape, generator=g) < 0.05, 0, a).to(dtype)


def check_log_gamma(simt, a, state=STATE):
    log_g = simt.log_gamma(a, state)
    assert_near(log_g, cpu.log_gamma(a, state), rtol=2e-6)
    grad = torch.linspace(-1, 1, a.numel(), dtype=a.dtype).view(a.shape)
    ours = simt.log_gamma_backward(grad, a, log_g)
    assert_near(ours, cpu.log_gamma_backward(grad, a, log_g), rtol=1e-5)
    return log_g, ours


@case(numel=[0, 1, 3, 4, 5, 511, 512, 513], dtype=[torch.float32, torch.float64])
def log_gamma_sizes(simt, numel, dtype):
    """Around packets and blocks, from every place in a Philox group."""
    for first_row in (0, 1, 2, 3, 2**33 + 1, -1):
        check_log_gamma(simt, spread((numel,), dtype), torch.tensor([9, 2**32 + 5, first_row]))


@case(dtype=[torch.float32, torch.float64])
def log_gamma_layouts(simt, dtype):
    a = spread((5, 7, 3), dtype)
    aligned = check_log_gamma(simt, a)
    for x, y in zip(check_log_gamma(simt, misaligned(a)), aligned, strict=True):
        assert_same(x, y)


@case(dtype=[torch.float32, torch.float64])
def log_gamma_wrong_values(simt, dtype):
    """NaN, and neighbours as they are."""
    a = spread((64,), dtype, low=-2, high=2)
    wild = a.clone()
    wild[[1, 6, 11, 16]] = torch.tensor([torch.nan, -1.0, torch.inf, -torch.inf], dtype=dtype)
    log_g = simt.log_gamma(wild, STATE)
    gradient = simt.log_gamma_backward(torch.ones_like(a), wild, log_g)
    expected = cpu.log_gamma(a, STATE)
    expected_gradient = cpu.log_gamma_backward(torch.ones_like(a), a, expected)
    expected[[1, 6, 11, 16]] = expected_gradient[[1, 6, 11, 16]] = torch.nan
    assert_near(log_g, expected, rtol=2e-6)
    assert_near(gradient, expected_gradient, rtol=1e-5)


# dirichlet


def check_dirichlet(simt, a, state=STATE):
    z, log_total = simt.dirichlet(a, state)
    expected_z, expected_total = cpu.dirichlet(a, state)
    # A z is the exponential of numbers up to 40.
    assert_near(z, expected_z, rtol=2e-5)
    assert_near(log_total, expected_total, rtol=2e-6)
    grad = torch.linspace(-1, 1, a.numel(), dtype=a.dtype).view(a.shape)
    ours = simt.dirichlet_backward(grad, a, z, log_total)
    # An implicit gradient at a small concentration is large, and multiplies differences of
    # gradients.
    compare_scaled([ours], [cpu.dirichlet_backward(grad, a, z, log_total)])
    return z, log_total, ours


@case(
    classes=[1, 2, 3, 4, 5, 31, 32, 33, 127, 128, 129, 2047, 2048, 2049, 9000],
    dtype=[torch.float32, torch.float64],
)
def dirichlet_classes(simt, classes, dtype):
    """K around the numbers of threads that a row gets; the last takes several packets a thread."""
    rows = 3 if classes < 100 else 1
    check_dirichlet(simt, spread((rows, classes), dtype, low=-1, high=1))
    check_dirichlet(simt, spread((rows, classes), dtype, low=-4, high=2))


@case(shape=[(0, 5), (3,), (2, 3, 7), (65, 3), (129, 2)])
def dirichlet_shapes(simt, shape):
    for first_row in (0, 1, 2, 3, 2**33 + 1, -1):
        state = torch.tensor([9, 2**32 + 5, first_row])
        a = spread(shape, low=-1, high=1) + 0.01
        aligned = check_dirichlet(simt, a, state)
        for x, y in zip(check_dirichlet(simt, misaligned(a), state), aligned, strict=True):
            assert_same(x, y)


@case(classes=[5, 300], dtype=[torch.float32, torch.float64])
def dirichlet_wrong_values(simt, classes, dtype):
    """A row with a wild concentration, or with zeros alone, is NaN; the others are as they are."""
    a = spread((6, classes), dtype, low=-1, high=1) + 0.01
    wild = a.clone()
    wild[0, 1], wild[1, 2], wild[2, 3], wild[3] = torch.nan, -1, torch.inf, 0
    z, log_total = simt.dirichlet(wild, STATE)
    grad = simt.dirichlet_backward(torch.ones_like(a), wild, z, log_total)
    for t in (z, log_total):
        assert t[:4].isnan().all()
    assert grad[:3].isnan().any(1).all() and grad[3].isnan().all()
    expected_z, expected_total = cpu.dirichlet(a, STATE)
    assert_near(z[4:], expected_z[4:], rtol=2e-5)
    assert_near(log_total[4:], expected_total[4:], rtol=2e-6)


# generalized_cross_entropy


def cross_entropy_inputs(batch, classes, dtype=torch.float32, target=None):
    """Logits and labels, or probabilities of dtype `target` with zeros in them."""
    g = torch.Generator().manual_seed(batch + 7919 * classes)
    logits = (3 * torch.randn(batch, classes, generator=g, dtype=torch.float64)).to(dtype)
    if target is None:
        return logits, torch.randint(classes, (batch,), generator=g)
    y = torch.softmax(2 * torch.randn(batch, classes, generator=g, dtype=torch.float64), 1)
    return logits, torch.where(torch.rand(batch, classes, generator=g) < 0.3, 0, y).to(target)


def cross_entropy_on_cpu(*arguments):
    return cpu.generalized_cross_entropy(*arguments, False)[:2]


def run_cross_entropy(op, backward, logits, target, smoothing, reduction):
    loss, row_stats = op(logits, target, smoothing, reduction)
    wants_target = target.is_floating_point()
    gradients = backward(
        weights_of(loss), logits, target, row_stats, smoothing, reduction, wants_target
    )
    return loss, row_stats, *gradients


def check_cross_entropy(simt, logits, target, smoothing=0.1, reduction="mean"):
    options = (logits, target, smoothing, reduction)
    ours = run_cross_entropy(
        simt.generalized_cross_entropy, simt.generalized_cross_entropy_backward, *options
    )
    expected = run_cross_entropy(
        cross_entropy_on_cpu, cpu.generalized_cross_entropy_backward, *options
    )
    if logits.dtype != torch.float64 and target.dtype == torch.float64:
        ours, expected = ([t.float() for t in results] for results in (ours, expected))
    compare_scaled(ours, expected)
    return ours


@case(dtype=FLOATS, target=[None, *FLOATS])
def cross_entropy_dtypes(simt, dtype, target):
    for classes in (10, 35):
        check_cross_entropy(simt, *cross_entropy_inputs(5, classes, dtype, target))


@case(
    classes=[1, 2, 7, 8, 9, 31, 32, 33, 255, 256, 257, 1023, 1024, 1025, 4095, 4096, 4097, 100_000],
    target=[None, torch.float32],
)
def cross_entropy_classes(simt, classes, target):
    """K around the numbers of threads that a row gets, a packet of 8 each."""
    rows = 3 if classes < 1000 else 1
    check_cross_entropy(simt, *cross_entropy_inputs(rows, classes, target=target))


@case(
    batch=[0, 1, 63, 64, 65],
    target=[None, torch.float32],
    reduction=["mean", "sum", "none"],
    smoothing=[0.0, 0.1, 1.0],
)
def cross_entropy_batches(simt, batch, target, reduction, smoothing):
    inputs = cross_entropy_inputs(batch, 9, target=target)
    check_cross_entropy(simt, *inputs, smoothing, reduction)


@case(dtype=[torch.bfloat16, torch.float32], classes=[16, 17])
def cross_entropy_misaligned(simt, dtype, classes):
    logits, target = cross_entropy_inputs(5, classes, dtype, dtype)
    aligned = check_cross_entropy(simt, logits, target)
    for x, y in ((misaligned(logits), target), (logits, misaligned(target))):
        for a, b in zip(check_cross_entropy(simt, x, y), aligned, strict=True):
            assert_same(a, b)


@case(classes=[5, 300])
def cross_entropy_wrong_values(simt, classes):
    """A wild label makes its row NaN, as do logits without a finite one; -inf rules a class out."""
    logits, labels = cross_entropy_inputs(8, classes)
    logits[4], logits[5, 2], logits[6, 3] = -torch.inf, torch.nan, torch.inf
    logits[7, 4] = -torch.inf
    labels[7] = 0
    wild = labels.clone()
    wild[1], wild[2], wild[3] = classes, -1, 2**62
    expected = list(
        run_cross_entropy(
            cross_entropy_on_cpu, cpu.generalized_cross_entropy_backward,
            logits, labels, 0.0, "none",
        )
    )  # fmt: skip
    ours = run_cross_entropy(
        simt.generalized_cross_entropy, simt.generalized_cross_entropy_backward,
        logits, wild, 0.0, "none",
    )  # fmt: skip
    for i in (0, 2):
        expected[i][1:4] = torch.nan
        compare_scaled([ours[i]], [expected[i]])
    assert ours[0].isfinite().tolist() == [True] + 6 * [False] + [True]


# pgd_step_


def attack_inputs(shape, dtype=torch.float32, grad_dtype=torch.float32):
    g = torch.Generator().manual_seed(torch.Size(shape).numel())
    x = torch.rand(shape, generator=g, dtype=torch.float64).to(dtype)
    x_adv = (x + 0.06 * torch.rand(shape, generator=g, dtype=torch.float64) - 0.03).to(dtype)
    grad = torch.randn(shape, generator=g, dtype=torch.float64).to(grad_dtype)
    return x_adv, torch.where(torch.rand(shape, generator=g) < 0.1, 0, grad), x


def check_pgd_step(simt, x_adv, grad, x, eps=8 / 255, upper=1.0):
    expected = x_adv.clone(memory_format=torch.preserve_format)
    cpu.pgd_step_(expected, grad, x, 2 / 255, eps, 0.0, upper)
    simt.pgd_step_(x_adv, grad, x, step=2 / 255, eps=eps, upper=upper)
    assert_same(x_adv, expected)  # no sums, no series: the same bits


@case(dtype=[torch.float32, torch.float64], grad_dtype=FLOATS)
def pgd_step_dtypes(simt, dtype, grad_dtype):
    for numel in (0, 1, 7, 8, 9, 2047, 2048, 2049):
        check_pgd_step(simt, *attack_inputs((numel,), dtype, grad_dtype))


@case(which=[(0,), (1,), (2,), (0, 1, 2)])
def pgd_step_misaligned(simt, which):
    inputs = attack_inputs((3, 5, 7), grad_dtype=torch.bfloat16)
    check_pgd_step(simt, *(misaligned(t) if i in which else t for i, t in enumerate(inputs)))


@case(dtype=[torch.float32, torch.float64])
def pgd_step_strides(simt, dtype):
    """Layouts that differ, a transposed x_adv, a broadcast gradient."""
    x_adv, grad, x = attack_inputs((3, 4, 5, 6), dtype)
    check_pgd_step(simt, x_adv.contiguous(memory_format=torch.channels_last), grad, x)
    check_pgd_step(simt, strided(x_adv), grad, strided(x))
    check_pgd_step(simt, x_adv.mT, grad[:1, :1].mT.expand_as(x_adv.mT), x.mT)
    twelve = [t.reshape([2, 1] * 5 + [3, 2])[..., ::2] for t in attack_inputs((192,), dtype)]
    check_pgd_step(simt, *twelve)


@case(value=[torch.nan, torch.inf, -torch.inf], which=[0, 1, 2])
def pgd_step_odd_values(simt, value, which):
    inputs = attack_inputs((33,))
    inputs[which][::5] = value
    check_pgd_step(simt, *inputs)
    check_pgd_step(simt, *inputs, eps=0.0, upper=torch.inf)


# All kernels in a few launches, whose bits the order of threads must not change.


def everything(simt, seed: int) -> list[torch.Tensor]:
    x = images_of((5, 3, 12, 13), torch.uint8)
    partner, lam = mixing(5)
    mixed = simt.gaussian_mixup(
        x, partner, lam, STATE, **channel_options(3), noise="paired", seed=seed
    )
    grad = simt.gaussian_mixup_backward(
        mixed, partner, lam, std=[1.0] * 3, dtype=torch.float32, seed=seed
    )
    results = [*simt.sample_mixup(200, STATE, per_sample=True, seed=seed), mixed, grad]
    for classes, label_mode in ((10, "sample"), (300, "sample"), (300, "mean")):
        inputs = loss_inputs(11, classes)
        results += run_loss(simt, *inputs, label_mode=label_mode, seed=seed)
    options = dict(label_mode="mean", beta_grad="none")
    results += simt.sprout_loss(*loss_inputs(1, 8193), STATE, **options, seed=seed)  # in segments

    a = spread((3, 301), low=-1, high=1)
    log_g = simt.log_gamma(a, STATE, seed=seed)
    results += [log_g, simt.log_gamma_backward(a, a, log_g, seed=seed)]
    z, log_total = simt.dirichlet(a, STATE, seed=seed)
    results += [z, log_total, simt.dirichlet_backward(a, a, z, log_total, seed=seed)]
    logits, target = cross_entropy_inputs(3, 301, target=torch.float32)
    results += run_cross_entropy(
        functools.partial(simt.generalized_cross_entropy, seed=seed),
        functools.partial(simt.generalized_cross_entropy_backward, seed=seed),
        logits, target, 0.1, "mean",
    )  # fmt: skip
    results.append(simt.pgd_step_(*attack_inputs((999,)), step=0.01, eps=0.03, seed=seed))
    return results
