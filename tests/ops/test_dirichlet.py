"""dirichlet against its reference implementation, the distribution, and sprout_loss."""

import pytest
import torch
from helpers.op_inputs import STATE
from scipy import stats

from sprout_fast import dirichlet, log_gamma, reference, sprout_loss
from sprout_fast.reference.sprout_loss import concentrations

NEGLIGIBLE = 4.3e-18  # e^-40: smaller z are set to 0


def spread(shape, dtype=torch.float32, low=-5.0, high=5.0, seed=0):
    """Return concentrations, log-uniform between 10^low and 10^high."""
    g = torch.Generator().manual_seed(seed)
    return (10 ** (low + (high - low) * torch.rand(shape, generator=g).double())).to(dtype)


def gradient(sampler, a, weight):
    a = a.clone().requires_grad_()
    z = sampler(a, STATE)
    return z.detach(), torch.autograd.grad((weight.to(z.dtype) * z).sum(), a)[0]


SHAPES = [(1,), (7,), (1, 1), (9, 2), (64, 10), (3, 16), (5, 4, 17), (17, 33), (8, 1000), (0, 5)]


@pytest.mark.parametrize("dtype, rtol", [(torch.float32, 2e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("low, high", [(-5, -1), (-3, 1), (0, 4)])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_reference(shape, low, high, dtype, rtol):
    a = spread(shape, dtype, low, high)
    actual, exact = dirichlet(a, STATE), reference.dirichlet(a, STATE)
    assert actual.dtype == dtype and actual.shape == shape
    torch.testing.assert_close(actual.double(), exact, rtol=rtol, atol=2 * NEGLIGIBLE)
    torch.testing.assert_close(actual.sum(-1), torch.ones(shape[:-1], dtype=dtype))


@pytest.mark.parametrize("low, high", [(-3, 0), (-1, 2)])
@pytest.mark.parametrize("shape", [(9, 2), (5, 4, 17), (8, 100)])
def test_gradient_equals_reference(shape, low, high):
    a = spread(shape, torch.float64, low, high)
    weight = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    _, actual = gradient(dirichlet, a, weight)
    _, expected = gradient(reference.dirichlet, a, weight)  # its own error is about 1e-5
    size = expected.abs().amax(-1, keepdim=True)
    # 1e-12: the contribution of z below e^-40.
    assert ((actual - expected).abs() <= 1e-4 * expected.abs() + 1e-8 * size + 1e-12).all()


@pytest.mark.parametrize("dtype, rtol", [(torch.float32, 5e-6), (torch.float64, 1e-10)])
def test_gradient_is_that_of_softmax_of_log_gamma(dtype, rtol):
    """The fused backward equals the composition of softmax and log_gamma in float64."""
    for low, high in ((-5, -1), (-3, 1), (0, 4)):
        a = spread((40, 50), dtype, low, high)
        weight = torch.randn(40, 50, dtype=dtype, generator=torch.Generator().manual_seed(1))
        _, actual = gradient(dirichlet, a, weight)
        _, exact = gradient(
            lambda a, state: torch.softmax(log_gamma(a, state), -1), a.double(), weight.double()
        )
        # Variates differ between float32 and float64: compare relative to the row's gradient.
        size = exact.abs().amax(-1, keepdim=True)
        error = (actual.double() - exact).abs()
        assert (error <= rtol * exact.abs() + rtol * size).all(), (low, high, (error / size).max())


@pytest.mark.parametrize("dtype, rtol", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_gradient_where_one_entry_is_nearly_1(dtype, rtol):
    """g_k - sum_j g_j z_j would cancel, since 1 - z_1 is 1e-9."""
    a = torch.tensor([[1000.0, 1e-6]], dtype=dtype)
    grad = torch.tensor([[3.0, 5.0]], dtype=dtype)
    z = torch.tensor([[1 - 1e-9, 1e-9]], dtype=torch.float64).to(dtype)
    log_total = torch.tensor([6.9], dtype=dtype)
    actual = torch.ops.sprout_fast.dirichlet_backward(grad, a, z, log_total)
    log_g = log_total.double() + z.double().log()
    w = torch.ops.sprout_fast.log_gamma_backward(torch.ones_like(log_g), a.double(), log_g)
    rest = z[0, 1].double()
    exact = w * 2 * rest * (1 - rest) * torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(actual.double(), exact, rtol=rtol, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_concentrations(dtype):
    a = spread((5, 40), dtype, -2, 1)
    a[:, ::3] = 0
    a[3] = 0
    a[4, 1:] = 0
    a[4, 0] = 1
    weight = torch.ones(5, 40, dtype=dtype)
    weight[:, 0] = torch.inf  # as for a class with logit -inf
    weight[4] = 1
    z, grad = gradient(dirichlet, a, weight)
    fine = [0, 1, 2]
    assert (z[fine][:, ::3] == 0).all() and (grad[fine][:, ::3] == 0).all()
    assert grad[fine].isfinite().all()
    assert z[3].isnan().all() and grad[3].isnan().all()
    assert z[4, 0] == 1 and (z[4, 1:] == 0).all() and (grad[4] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_concentrations(dtype):
    """The row's largest variate absorbs kNegligibleNats in rounding, or exceeds e^44.

    These rows used to be NaN.
    """
    tiny = dirichlet(torch.full((200, 1), 1e-30, dtype=dtype), STATE)
    assert (tiny == 1).all()
    tiny = dirichlet(torch.full((200, 5), 1e-9, dtype=dtype), STATE)
    assert (tiny.amax(1) == 1).all() and (tiny.sum(1) == 1).all()
    for a in (1e19, 1e20, 1e30):
        huge = dirichlet(torch.tensor([[a, 3 * a, 0.0, 1.0]], dtype=dtype), STATE)
        expected = torch.tensor([[0.25, 0.75, 0.0, 0.0]], dtype=dtype)
        torch.testing.assert_close(huge, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("a", [1e-5, 1e-2, 0.3, 1.0, 20.0, 1e5])
def test_marginals_are_beta(a):
    """z_k ~ Beta(a_k, a_0 - a_k) at fixed seeds, 12 tests at a false-alarm rate of 1e-4 each."""
    concentration = torch.tensor([a, 2 * a, 3 * a], dtype=torch.float64)
    z = dirichlet(concentration.expand(20_000, 3), torch.tensor([2, 0, 0])).numpy()
    law = stats.beta(a, 5 * a)
    # Small concentrations give z that float32 cannot resolve at both ends: test the middle of the
    # distribution, and the probability of one end.
    low, high = law.cdf(0.01), law.cdf(0.99)
    ends = int((z[:, 0] <= 0.01).sum())
    assert stats.binomtest(ends, len(z), low).pvalue > 1e-4
    middle = z[(z[:, 0] > 0.01) & (z[:, 0] < 0.99), 0]
    if len(middle) > 20:
        assert stats.kstest(middle, lambda x: (law.cdf(x) - low) / (high - low)).pvalue > 1e-4
    else:
        assert a == 1e-5


@pytest.mark.parametrize("a", [1e-5, 1e-2, 0.3, 1.0, 20.0, 1e5])
def test_moments(a):
    """Means and covariances, 6 x 12 of them, within 5 standard errors (6e-7 false alarms each)."""
    n, share = 40_000, torch.tensor([1, 2, 3], dtype=torch.float64) / 6
    z = dirichlet((6 * a * share).expand(n, 3), torch.tensor([6, 0, 0]))
    assert ((z.mean(0) - share).abs() < 5 * z.std(0) / n**0.5).all()
    centred = z - share
    products = centred.unsqueeze(1) * centred.unsqueeze(2)
    exact = (torch.diag(share) - share.outer(share)) / (6 * a + 1)
    assert ((products.mean(0) - exact).abs() < 5 * products.std(0) / n**0.5).all()


def test_gradient_is_unbiased():
    """For L = w . z, E[dL/da_k] = (w_k - E[L]) / a_0, within 5 standard errors."""
    w = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    for a in ([0.02, 0.5, 1.0], [2.0, 0.1, 30.0]):
        a = torch.tensor(a, dtype=torch.float64)
        rows = a.expand(40_000, 3).clone().requires_grad_()
        (dirichlet(rows, torch.tensor([8, 0, 0])) @ w).sum().backward()
        exact = (w - (a @ w) / a.sum()) / a.sum()
        error = rows.grad.mean(0) - exact
        assert (error.abs() < 5 * rows.grad.std(0) / len(rows) ** 0.5).all()


def test_ranks_draw_the_numbers_of_one_rank():
    a = spread((6, 4, 5), low=-2, high=2)
    whole = dirichlet(a, torch.tensor([5, 1, 10]))
    assert torch.equal(whole[2:], dirichlet(a[2:], torch.tensor([5, 1, 12])))


def test_layouts():
    a = spread((6, 8, 10), low=-2, high=2)
    assert torch.equal(
        dirichlet(a.transpose(0, 2), STATE), dirichlet(a.transpose(0, 2).contiguous(), STATE)
    )
    assert torch.equal(dirichlet(a[:, 1, ::3], STATE), dirichlet(a[:, 1, ::3].clone(), STATE))
    weight = torch.randn(10, 8, 6).transpose(0, 2)
    _, strided = gradient(dirichlet, a, weight)
    _, dense = gradient(dirichlet, a, weight.contiguous())
    assert torch.equal(strided, dense)


@pytest.mark.parametrize("classes", [3, 1000])
def test_does_not_depend_on_threads(classes):
    a = spread((101, classes), low=-3, high=2)
    weight = torch.randn(101, classes)
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            results.append(gradient(dirichlet, a, weight))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))


@pytest.mark.parametrize("shape", [(5,), (3, 4), (0, 4), (2, 3, 4)])
def test_opcheck(shape):
    a = spread(shape, low=-1, high=1)
    op = torch.ops.sprout_fast.dirichlet.default
    torch.library.opcheck(op, (a.clone().requires_grad_(), STATE))
    torch.library.opcheck(op, (a.double(), STATE))
    backward = torch.ops.sprout_fast.dirichlet_backward.default
    torch.library.opcheck(backward, (torch.ones(shape), a, *op(a, STATE)))


def test_compiles_to_one_graph():
    a = spread((8, 10), low=-1, high=1)
    weight = torch.randn(8, 10)

    def f(a, state):
        return dirichlet(a * 2, state).square()

    compiled = gradient(torch.compile(f, fullgraph=True), a, weight)
    for actual, expected in zip(compiled, gradient(f, a, weight), strict=True):
        torch.testing.assert_close(actual, expected)


def test_second_derivative_is_refused():
    a = spread((2, 3), low=-1, high=1).requires_grad_()
    (grad,) = torch.autograd.grad(dirichlet(a, STATE)[:, 0].sum(), a, create_graph=True)
    with pytest.raises(RuntimeError, match="dirichlet has no second derivative"):
        grad.sum().backward()


A = torch.ones(2, 3)
WRONG = {
    "concentration must be float32 or float64, got bfloat16 [2, 3]": (A.bfloat16(), STATE),
    "concentration must be [..., K] with K at least 1, got float32 []": (A[0, 0], STATE),
    "concentration must be [..., K] with K at least 1, got float32 [2, 0]": (A[:, :0], STATE),
    "concentration must be finite and at least 0, got -2 at index 0": (-2 * A, STATE),
    "concentration must be finite and at least 0, got nan": (A * torch.nan, STATE),
    "concentration must be finite and at least 0, got inf": (A / 0, STATE),
    "concentration must be float32 or float64, got None": (None, STATE),
    "rng_state must be int64 [3]": (A, torch.tensor(3)),
    "rng_state must be on the device of concentration (cpu), got meta": (A, STATE.to("meta")),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments_are_named(message):
    with pytest.raises(RuntimeError) as error:
        dirichlet(*WRONG[message])
    assert "sprout_fast::dirichlet: " + message in str(error.value)


@pytest.mark.parametrize(
    "message, arguments",
    [
        ("grad_z must be of concentration's dtype and shape", (A[:1], A, A, A[:, 0])),
        ("z must be what dirichlet returned", (A, A, A.double(), A[:, 0])),
        ("log_total must be what dirichlet returned", (A, A, A, A)),
    ],
)
def test_wrong_backward_arguments_are_named(message, arguments):
    with pytest.raises(RuntimeError) as error:
        torch.ops.sprout_fast.dirichlet_backward(*arguments)
    assert "sprout_fast::dirichlet_backward: " + message in str(error.value)


@pytest.mark.parametrize("alpha, scale", [(0.01, 1.0), (1 / 11, 11.0)])
def test_same_draws_as_sprout_loss(alpha, scale):
    """sprout_loss draws the same labels, and its gradient of beta is that of the composition."""
    g = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(16, 100, generator=g, dtype=torch.float64)
    labels = torch.randint(100, (16,), generator=g)
    beta = torch.rand(100, generator=g).requires_grad_()
    cost = -torch.log_softmax(logits, 1)
    a = concentrations(labels, None, None, beta, alpha=alpha, scale=scale)
    chained = (dirichlet(a, STATE) * cost).sum(1).mean()
    fused = sprout_loss(logits, labels, None, None, beta, STATE, alpha=alpha, scale=scale)
    torch.testing.assert_close(fused, chained, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(fused, beta)[0],
        torch.autograd.grad(chained, beta)[0],
        rtol=1e-6,
        atol=0,
    )
