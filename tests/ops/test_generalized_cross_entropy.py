"""generalized_cross_entropy against its reference, F.cross_entropy, and the other ops."""

import pytest
import torch
import torch.nn.functional as F
from torch.fx.experimental.proxy_tensor import make_fx

from sprout_fast import dirichlet, generalized_cross_entropy, reference, sprout_loss
from sprout_fast.reference.sprout_loss import concentrations

FLOATING = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def inputs(batch, classes, dtype=torch.float32, target=None, seed=0):
    """Return logits and labels, or, given a dtype ``target``, probabilities not normalized to 1."""
    g = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(batch, classes, generator=g)).to(dtype)
    if target is None:
        return logits, torch.randint(classes, (batch,), generator=g)
    y = torch.softmax(2 * torch.randn(batch, classes, generator=g), 1)
    y = y * (0.5 + torch.rand(batch, 1, generator=g))
    return logits, torch.where(torch.rand(batch, classes, generator=g) < 0.3, 0, y).to(target)


def gradients(loss, logits, target, **options):
    """Return the loss and its gradients with respect to logits and, if it is soft, target."""
    wanted = [logits.clone().requires_grad_()]
    if target.is_floating_point():
        wanted.append(target.clone().requires_grad_())
    value = loss(wanted[0], wanted[1] if len(wanted) > 1 else target, **options)
    weights = torch.linspace(0.5, 2, len(value), dtype=value.dtype) if value.dim() else 1.0
    return value, *torch.autograd.grad((weights * value).sum(), wanted)


SHAPES = [(1, 1), (9, 2), (64, 10), (3, 16), (17, 33), (5, 256), (5, 257), (4, 1000)]


@pytest.mark.parametrize("batch, classes", SHAPES)
@pytest.mark.parametrize("target", [None, torch.float32])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_equals_reference(batch, classes, target, label_smoothing, reduction):
    options = dict(label_smoothing=label_smoothing, reduction=reduction)
    arguments = inputs(batch, classes, torch.float32, target)
    actual = gradients(generalized_cross_entropy, *arguments, **options)
    exact = gradients(reference.generalized_cross_entropy, *arguments, **options)
    for got, expected in zip(actual, exact, strict=True):
        size = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(got.double(), expected.double(), rtol=5e-6, atol=5e-7 * size)


@pytest.mark.parametrize("target", [None, *FLOATING])
@pytest.mark.parametrize("dtype", FLOATING)
def test_dtypes(dtype, target):
    arguments = inputs(33, 100, dtype, target)
    actual = gradients(generalized_cross_entropy, *arguments, label_smoothing=0.2)
    exact = gradients(
        reference.generalized_cross_entropy,
        arguments[0].double(),
        arguments[1] if target is None else arguments[1].double(),
        label_smoothing=0.2,
    )
    accumulate = torch.float64 if dtype == torch.float64 else torch.float32
    assert [t.dtype for t in actual] == [accumulate, dtype, target][: len(actual)]
    for got, expected in zip(actual, exact, strict=True):
        # One rounding to the dtype, in addition to the error of the arithmetic.
        rtol = torch.finfo(got.dtype).eps + 8 * torch.finfo(accumulate).eps
        atol = 8 * torch.finfo(accumulate).eps + torch.finfo(got.dtype).smallest_normal
        torch.testing.assert_close(got.double(), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradient_as_good_as_pytorch(dtype, soft, label_smoothing):
    """The error against float64 is at most twice that of F.cross_entropy in the same dtype."""
    logits, target = inputs(60, 100, dtype, dtype if soft else None)  # 1/60 is rounded
    options = dict(label_smoothing=label_smoothing)
    actual = gradients(generalized_cross_entropy, logits, target, **options)
    theirs = gradients(F.cross_entropy, logits, target, **options)
    exact = gradients(
        F.cross_entropy, logits.double(), target.double() if soft else target, **options
    )
    for got, theirs_got, expected in zip(actual, theirs, exact, strict=True):
        for error in (torch.amax, torch.mean):
            bound = 2 * error((theirs_got - expected).abs())
            assert error((got - expected).abs()) <= bound


@pytest.mark.parametrize("soft", [False, True])
def test_half_gradients_survive_loss_scaling(soft):
    """grad_output and 1/B are applied before the only rounding: no underflow under a GradScaler."""
    logits, target = inputs(256, 1000, torch.float16, torch.float16 if soft else None)
    logits.requires_grad_()
    (generalized_cross_entropy(logits, target) * 65536).backward()
    exact = logits.detach().double().requires_grad_()
    reference.generalized_cross_entropy(exact, target).backward()
    # fp16 has 11 bits; its smallest normal number is 6e-5.
    torch.testing.assert_close(logits.grad.double(), exact.grad * 65536, rtol=2**-10, atol=4e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
@pytest.mark.parametrize("soft", [False, True])
def test_gradcheck(soft, label_smoothing):
    logits, target = inputs(5, 7, torch.float64, torch.float64 if soft else None)
    logits.requires_grad_()
    for reduction in ("mean", "none"):
        options = dict(label_smoothing=label_smoothing, reduction=reduction)
        if soft:
            target.requires_grad_()
            assert torch.autograd.gradcheck(
                lambda x, y, o=options: generalized_cross_entropy(x, y, **o), (logits, target)
            )
        else:
            assert torch.autograd.gradcheck(
                lambda x, o=options: generalized_cross_entropy(x, target, **o), (logits,)
            )


@pytest.mark.parametrize("soft", [False, True])
def test_large_and_masked_logits(soft):
    logits, target = inputs(8, 20, torch.float32, torch.float32 if soft else None)
    shifted = gradients(generalized_cross_entropy, logits + 1e4, target)
    exact = gradients(reference.generalized_cross_entropy, (logits + 1e4).double(), target)
    for got, expected in zip(shifted, exact, strict=True):
        torch.testing.assert_close(got.double(), expected.double(), rtol=1e-5, atol=1e-6)
    masked = logits.clone()
    masked[:, 5] = -torch.inf  # an excluded class, the target of no row
    if soft:
        target[:, 5] = 0
    else:
        target[:] = target % 5
    value, by_logits, *_ = gradients(generalized_cross_entropy, masked, target)
    expected = reference.generalized_cross_entropy(masked, target)
    torch.testing.assert_close(value.double(), expected)
    assert by_logits.isfinite().all() and (by_logits[:, 5] == 0).all()
    # Mass on an excluded class costs infinity, as in F.cross_entropy.
    assert generalized_cross_entropy(masked, target, label_smoothing=0.1) == torch.inf


def test_nan_affects_its_row_only():
    logits, labels = inputs(4, 30)
    logits[1, 20] = torch.nan
    logits[2, :] = -torch.inf
    value, grad = gradients(generalized_cross_entropy, logits, labels, reduction="none")
    assert value.isnan().tolist() == [False, True, True, False]
    assert grad.isnan().all(1).tolist() == [False, True, True, False]
    logits, soft = inputs(3, 30, target=torch.float32)
    soft[0, 3] = torch.nan
    value = generalized_cross_entropy(logits, soft, reduction="none")
    assert value.isnan().tolist() == [True, False, False]


def test_layouts():
    logits, soft = inputs(12, 20, target=torch.float32)
    dense = gradients(generalized_cross_entropy, logits, soft, reduction="none")
    strided = (logits.T.contiguous().T, torch.stack([soft, soft], 2)[..., 1])
    for a, b in zip(
        dense, gradients(generalized_cross_entropy, *strided, reduction="none"), strict=True
    ):
        assert torch.equal(a, b)
    labels = torch.tensor([3, 0, 5, 0])[::2]
    assert torch.equal(
        generalized_cross_entropy(logits[:2], labels),
        generalized_cross_entropy(logits[:2], labels.clone()),
    )
    one = soft[:1].expand(12, -1)
    assert torch.equal(
        generalized_cross_entropy(logits, one), generalized_cross_entropy(logits, one.clone())
    )


def test_labels_equal_one_hot_rows():
    logits, labels = inputs(20, 15)
    one_hot = F.one_hot(labels, 15).float()
    for label_smoothing in (0.0, 0.2):
        torch.testing.assert_close(
            generalized_cross_entropy(logits, labels, label_smoothing=label_smoothing),
            generalized_cross_entropy(logits, one_hot, label_smoothing=label_smoothing),
        )


@pytest.mark.parametrize("soft", [False, True])
def test_does_not_depend_on_threads(soft):
    arguments = inputs(333, 100, torch.float32, torch.float32 if soft else None)
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            results.append(gradients(generalized_cross_entropy, *arguments))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("recipe", [(0.01, 1.0), (1 / 11, 11.0)])
@pytest.mark.parametrize("dtype, rtol", [(torch.float32, 2e-5), (torch.float64, 1e-12)])
def test_with_dirichlet_it_is_sprout_loss(dtype, rtol, recipe):
    """sprout_loss equals this loss of labels drawn by dirichlet from the same state."""
    alpha, scale = recipe
    g = torch.Generator().manual_seed(4)
    for classes in (2, 10, 257):
        logits, labels = inputs(24, classes, dtype)
        logits.requires_grad_()
        partner_labels = torch.randint(classes, (24,), generator=g)
        lam, beta = torch.rand(24, generator=g), torch.rand(classes, generator=g)
        mixing, state = (labels, partner_labels, lam, beta), torch.tensor([5, 6, 7])
        z = dirichlet(concentrations(*mixing, alpha=alpha, scale=scale).to(dtype), state)
        losses = (
            generalized_cross_entropy(logits, z),
            sprout_loss(logits, *mixing, state, alpha=alpha, scale=scale),
        )
        actual, fused = ((loss, *torch.autograd.grad(loss, logits)) for loss in losses)
        torch.testing.assert_close(actual[0], fused[0], rtol=rtol, atol=0)
        torch.testing.assert_close(actual[1], fused[1], rtol=10 * rtol, atol=rtol / 24)


@pytest.mark.parametrize("batch", [0, 3])
def test_opcheck(batch):
    op = torch.ops.sprout_fast.generalized_cross_entropy.default
    logits, labels = inputs(batch, 7)
    logits.requires_grad_()
    for return_grad_logits in (False, True):
        reduction = "mean" if batch else "sum"
        torch.library.opcheck(op, (logits, labels, 0.1, reduction, return_grad_logits))
    logits, soft = inputs(batch, 7, torch.bfloat16, torch.float32)
    torch.library.opcheck(op, (logits, soft.requires_grad_(), 0.0, "none", False))
    backward = torch.ops.sprout_fast.generalized_cross_entropy_backward.default
    row_stats = op(logits, soft.detach(), 0.0, "sum", False)[1]
    torch.library.opcheck(
        backward, (torch.ones(()), logits, soft.detach(), row_stats, 0.0, "sum", True)
    )


@pytest.mark.parametrize("soft", [False, True])
def test_compiles_to_one_graph(soft):
    arguments = inputs(8, 10, torch.float32, torch.float32 if soft else None)

    def f(logits, target):
        return generalized_cross_entropy(logits * 2, target, label_smoothing=0.1)

    compiled = gradients(torch.compile(f, fullgraph=True), *arguments)
    for actual, expected in zip(compiled, gradients(f, *arguments), strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", FLOATING)
def test_second_backward(dtype, soft, reduction):
    """The first hands out the gradient of the forward pass; the second has to compute it."""
    logits, target = inputs(9, 20, dtype, dtype if soft else None)
    logits.requires_grad_()
    results = []
    for scale in (1.0, 3.0):  # the loss itself, and a scaled one
        loss = generalized_cross_entropy(logits, target, label_smoothing=0.1, reduction=reduction)
        weight = torch.full_like(loss, scale)
        first, second = (
            torch.autograd.grad(loss, logits, weight, retain_graph=True)[0] for _ in range(2)
        )
        assert torch.equal(first, second)
        results.append(first)
    torch.testing.assert_close(results[1], 3 * results[0])
    assert results[0].abs().max() > 0


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_jacobian_of_all_rows_at_once(reduction):
    logits, labels = inputs(3, 4)

    def f(logits):
        return generalized_cross_entropy(logits, labels, reduction=reduction)

    together = torch.autograd.functional.jacobian(f, logits, vectorize=True)
    torch.testing.assert_close(together, torch.autograd.functional.jacobian(f, logits))


def test_trace_does_not_depend_on_the_gradient_of_the_loss():
    logits, labels = inputs(3, 4)

    def f(logits, weight):
        logits = logits.detach().requires_grad_()
        return torch.autograd.grad(generalized_cross_entropy(logits, labels), logits, weight)[0]

    traced = make_fx(f)(logits, torch.tensor(1.0))
    torch.testing.assert_close(traced(logits, torch.tensor(3.0)), f(logits, torch.tensor(3.0)))


def test_second_derivative_is_refused():
    logits, labels = inputs(3, 4)
    logits.requires_grad_()
    (grad,) = torch.autograd.grad(
        generalized_cross_entropy(logits, labels), logits, create_graph=True
    )
    with pytest.raises(RuntimeError, match="generalized_cross_entropy has no second derivative"):
        grad.sum().backward()


@pytest.mark.parametrize("target", [None, torch.float32])
def test_empty_batch(target):
    arguments = inputs(0, 4, torch.float32, target)
    assert generalized_cross_entropy(*arguments).isnan()
    assert generalized_cross_entropy(*arguments, reduction="sum") == 0
    value, grad, *_ = gradients(generalized_cross_entropy, *arguments, reduction="none")
    assert value.shape == (0,) and grad.shape == (0, 4)


X, LABELS = torch.zeros(2, 3), torch.tensor([0, 2])
TAKES = "target must be int64 [B], or probabilities"
WRONG = {
    "logits must be float64, float32, bfloat16 or float16 [B, K], got float32 [3]": (X[0], LABELS),
    "logits must be float64, float32, bfloat16 or float16 [B, K], got int64": (X.long(), LABELS),
    "logits must have at least one class, got float32 [2, 0]": (X[:, :0], LABELS),
    f"{TAKES} float64, float32, bfloat16 or float16 [B, K], on the device of logits (float32 "
    "[2, 3] on cpu), got int32 [2] on cpu": (X, LABELS.int()),
    f"{TAKES} float64": (X, LABELS[:1]),
    f"{TAKES} float64, float32": (X, X[:, :2]),
    f"{TAKES} float64, float32, bfloat16": (X, X.long()),
    f"{TAKES} float64, float32, bfloat16 or float16 [B, K], on the device of logits (float32 "
    "[2, 3] on cpu), got None": (X, None),
    "target must be on the device of logits (cpu), got meta": (X, LABELS.to("meta")),
    "target must be in [0, 3), got 3 at index 1": (X, torch.tensor([0, 3])),
    "target must be in [0, 3), got -1 at index 0": (X, torch.tensor([-1, 3])),
    "label_smoothing must be in [0, 1], got 1.5": (X, LABELS, 1.5),
    "label_smoothing must be in [0, 1], got nan": (X, LABELS, float("nan")),
    "reduction must be 'mean', 'sum' or 'none', got 'max'": (X, LABELS, 0.0, "max"),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments_are_named(message):
    names = ("label_smoothing", "reduction")
    arguments, options = WRONG[message][:2], dict(zip(names, WRONG[message][2:], strict=False))
    with pytest.raises(RuntimeError) as error:
        generalized_cross_entropy(*arguments, **options)
    assert "sprout_fast::generalized_cross_entropy: " + message in str(error.value)


def test_half_precision_gradient_in_forward_is_refused():
    with pytest.raises(RuntimeError, match="must be float32 or float64 on CPU if return_grad"):
        torch.ops.sprout_fast.generalized_cross_entropy(X.bfloat16(), LABELS, 0.0, "mean", True)


@pytest.mark.parametrize(
    "message, arguments",
    [
        ("row_stats must be what generalized_cross_entropy returned", (X[0, 0], X, LABELS, X)),
        ("grad_loss must be of the loss's dtype and shape", (X[0], X, LABELS, torch.zeros(2, 4))),
        ("return_grad_target must be False", (X[0, 0], X, LABELS, torch.zeros(2, 4))),
    ],
)
def test_wrong_backward_arguments_are_named(message, arguments):
    with pytest.raises(RuntimeError) as error:
        torch.ops.sprout_fast.generalized_cross_entropy_backward(*arguments, 0.0, "mean", True)
    assert "sprout_fast::generalized_cross_entropy_backward: " + message in str(error.value)
