"""log_gamma against its reference implementation, the distribution, and gradients by mpmath."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.op_inputs import STATE
from scipy import special, stats

from sprout_fast import log_gamma, reference
from sprout_fast.reference.log_gamma import gamma_variates

TABLE = Path(__file__).parent / "log_gamma_gradient.csv"


def spread(shape, dtype=torch.float32, low=-5.0, high=5.0, seed=0):
    """Return concentrations, log-uniform between 10^low and 10^high."""
    g = torch.Generator().manual_seed(seed)
    return (10 ** (low + (high - low) * torch.rand(shape, generator=g).double())).to(dtype)


def sample(a, count, dtype=torch.float32, seed=1):
    return (
        log_gamma(torch.full((count,), a, dtype=dtype), torch.tensor([seed, 0, 0])).double().numpy()
    )


@pytest.mark.parametrize("dtype, rtol", [(torch.float32, 2e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (15,), (16, 17), (3, 0, 2), (5, 7, 11), (2000,)])
def test_equals_reference(dtype, rtol, shape):
    a = spread(shape, dtype)
    actual, exact = log_gamma(a, STATE), reference.log_gamma(a, STATE)
    assert actual.dtype == dtype and actual.shape == shape
    # log G can be near 0, where only the absolute error is meaningful.
    torch.testing.assert_close(actual.double(), exact, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("dtype, rtol", [(torch.float32, 2e-6), (torch.float64, 1e-13)])
def test_row_across_element_2_to_the_32(dtype, rtol):
    """The upper word of the counter changes at every index in a chunk, a block and a group."""
    a = spread((1500,), dtype, low=-1.0, high=1.0)
    for before in (0, 1, 2, 3, 64, 333, 1023, 1024, 1025, 1499):
        element = 2**32 - before + torch.arange(1500)
        exact = gamma_variates(a, torch.tensor([5, 7, 0]), element=element)
        actual = log_gamma(a, torch.tensor([5, 7, 2**32 - before]))  # rows of one element
        torch.testing.assert_close(actual.double(), exact, rtol=rtol, atol=rtol)


def test_layouts():
    a = spread((6, 8, 10))
    expected = log_gamma(a.transpose(0, 2).contiguous(), STATE)
    actual = log_gamma(a.transpose(0, 2), STATE)
    assert torch.equal(actual, expected) and actual.is_contiguous()
    assert torch.equal(log_gamma(a[::2, :, 1], STATE), log_gamma(a[::2, :, 1].clone(), STATE))
    one = torch.tensor(0.3).expand(4, 5)
    assert torch.equal(log_gamma(one, STATE), log_gamma(one.clone(), STATE))
    state = torch.stack([STATE, STATE], 1)[:, 0]
    assert torch.equal(log_gamma(a, state), log_gamma(a, STATE))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_and_tiny(dtype):
    a = torch.tensor([0.0, 1.0, 0.0, 1e-300, 1e-42], dtype=dtype, requires_grad=True)
    log_g = log_gamma(a, STATE)
    assert (log_g[[0, 2]] == -torch.inf).all() and log_g[1].isfinite()
    assert not log_g.isnan().any()
    log_g.backward(torch.ones_like(a))
    assert (a.grad[log_g == -torch.inf] == 0).all() and a.grad[1] > 0


def test_no_gradient_at_zero_concentrations():
    """exp(-inf) = 0 does not depend on a = 0, however large the incoming gradient."""
    a = torch.zeros(2, requires_grad=True)
    log_gamma(a, STATE).backward(torch.tensor([torch.inf, torch.nan]))
    assert (a.grad == 0).all()


def cdf_of_log(a):
    """Return the CDF of log G; where G itself underflows, F = g^a / Gamma(a + 1)."""

    def cdf(log_g):
        tiny = log_g < -100
        small = np.exp(a * np.where(tiny, log_g, 0) - special.gammaln(a + 1))
        return np.where(tiny, small, special.gammainc(a, np.exp(np.where(tiny, 0, log_g))))

    return cdf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("a", [1e-5, 1e-3, 0.1, 0.7, 1.0, 1.5, 10.0, 1e3, 1e5])
def test_distribution(a, dtype):
    """Kolmogorov-Smirnov tests at 1e-4 and moments within 5 standard errors (6e-7), fixed seeds.

    With other seeds, the 18 cases would raise a false alarm once in 500 runs.
    """
    n = 20_000
    x = sample(a, n, dtype)
    a = float(torch.tensor(a, dtype=dtype))
    assert stats.kstest(x, cdf_of_log(a)).pvalue > 1e-4
    # Mean, variance and fourth cumulant of log G: psi, psi', psi'''. psi(a) = -1/a for tiny a.
    mean, variance, fourth = special.digamma(a), *(float(special.polygamma(k, a)) for k in (1, 3))
    assert abs(x.mean() - mean) < 5 * np.sqrt(variance / n)
    assert abs(x.var() - variance) < 5 * np.sqrt((fourth + 2 * variance**2) / n)


def test_elements_and_calls_are_independent():
    """Correlations of 100,000 pairs within 5 standard errors (6e-7 false alarms each)."""
    x = sample(0.5, 100_000)
    other_call = log_gamma(torch.full((100_000,), 0.5), torch.tensor([1, 1, 0])).double().numpy()
    for left, right in ((x[:-1], x[1:]), (x[:-16], x[16:]), (x, other_call)):
        assert abs(np.corrcoef(left, right)[0, 1]) < 5 / np.sqrt(len(left))


def test_ranks_draw_the_numbers_of_one_rank():
    a = spread((6, 5))
    whole = log_gamma(a, torch.tensor([5, 1, 10]))
    assert torch.equal(whole[2:], log_gamma(a[2:], torch.tensor([5, 1, 12])))
    assert torch.equal(whole.view(-1), log_gamma(a.view(-1), torch.tensor([5, 1, 50])))
    scalar = log_gamma(a[0, 0].clone(), torch.tensor([5, 1, 50]))  # a row of one element
    assert scalar == whole[0, 0]


def test_does_not_depend_on_threads():
    """Sizes that two threads divide into other blocks than one thread does.

    The series of neighboring gradients are summed until all of them have converged.
    """
    a = spread((37, 1000)).requires_grad_()
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            log_g = log_gamma(a, STATE)
            results.append((log_g, torch.autograd.grad(log_g.sum(), a)[0]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(x, y) for x, y in zip(*results, strict=True))


def table():
    rows = list(csv.DictReader(TABLE.open()))
    return (
        torch.tensor([float(r[name]) for r in rows], dtype=torch.float64)
        for name in ("concentration", "log_g", "gradient")
    )


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-6), (torch.float64, 1e-10)])
def test_gradient_against_mpmath(dtype, bound, capsys):
    a, log_g, exact = table()
    assert len(a) == 300
    a, log_g = a.to(dtype), log_g.to(dtype)  # exact: the table contains float32 numbers
    actual = torch.ops.sprout_fast.log_gamma_backward(torch.ones_like(a), a, log_g).double()
    error = (actual / exact - 1).abs()
    # PyTorch computes dG/da: convert it to that of log G where G does not underflow.
    g = log_g.exp()
    usable = g >= torch.finfo(dtype).tiny
    theirs = (torch._standard_gamma_grad(a, g) / g).double()[usable]
    their_error = (theirs / exact[usable] - 1).abs()
    with capsys.disabled():
        print(
            f"\ndlog G/da, {dtype}, largest / median relative error over {len(a)} mpmath values: "
            f"actual {error.max():.1e} / {error.median():.1e}, torch._standard_gamma_grad "
            f"{their_error.max():.1e} / {their_error.median():.1e} (on the {usable.sum()} whose G "
            "does not underflow)"
        )
    assert error.max() <= bound


def test_reference_gradient_against_mpmath():
    """The reference is accurate to 5 digits in the bulk of the distribution, where tests use it."""
    a, log_g, exact = table()
    bulk = torch.arange(len(a)) % 12 >= 4  # quantiles .01 to .99
    error = (reference.log_gamma_gradient(a, log_g) / exact - 1).abs()[bulk & (a <= 1e4)]
    assert error.max() < 1e-4


def test_backward_equals_reference():
    a = spread((40, 9), torch.float64, -3, 3).requires_grad_()
    weight = torch.randn(40, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (actual,) = torch.autograd.grad((weight * log_gamma(a, STATE)).sum(), a)
    (expected,) = torch.autograd.grad((weight * reference.log_gamma(a, STATE)).sum(), a)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=0)


def test_gradient_is_unbiased():
    """E[dlog G/da] = dE[log G]/da = psi'(a), within 5 standard errors (6e-7 false alarms each)."""
    for a in (0.01, 0.5, 3.0, 200.0):
        concentration = torch.full((20_000,), a, dtype=torch.float64, requires_grad=True)
        log_gamma(concentration, torch.tensor([3, 0, 0])).sum().backward()
        grad = concentration.grad
        exact = float(special.polygamma(1, a))
        assert abs(grad.mean() - exact) < 5 * grad.std() / len(grad) ** 0.5


@pytest.mark.parametrize("shape", [(), (0,), (4, 5)])
def test_opcheck(shape):
    op = torch.ops.sprout_fast.log_gamma.default
    torch.library.opcheck(op, (spread(shape).requires_grad_(), STATE))
    torch.library.opcheck(op, (spread((*shape, 2), torch.float64)[..., 0], STATE))
    backward = torch.ops.sprout_fast.log_gamma_backward.default
    torch.library.opcheck(backward, (torch.ones(shape), spread(shape), torch.zeros(shape)))


def test_compiles_to_one_graph():
    a = spread((8, 10)).requires_grad_()

    def f(a):
        return log_gamma(a * 2, STATE).atan()

    results = []
    for function in (torch.compile(f, fullgraph=True), f):
        out = function(a)
        results.append((out, torch.autograd.grad(out.sum(), a)[0]))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_second_derivative_is_refused():
    a = spread((3,)).requires_grad_()
    (grad,) = torch.autograd.grad(log_gamma(a, STATE).sum(), a, create_graph=True)
    with pytest.raises(RuntimeError, match="log_gamma has no second derivative"):
        grad.sum().backward()


A = torch.ones(2, 3)
WRONG = {
    "concentration must be float32 or float64, got float16 [2, 3]": (A.half(), STATE),
    "concentration must be float32 or float64, got int64": (A.long(), STATE),
    "concentration must be finite and at least 0, got -1 at index 4": (
        torch.tensor([[1.0, 1, 1], [1, -1, 1]]),
        STATE,
    ),
    "concentration must be finite and at least 0, got nan at index 0": (A * torch.nan, STATE),
    "concentration must be finite and at least 0, got inf": (A.double() / 0, STATE),
    "concentration must be float32 or float64, got None": (None, STATE),
    "rng_state must be int64 [3]": (A, STATE.int()),
    "rng_state must be on the device of concentration (cpu), got meta": (A, STATE.to("meta")),
    "rng_state must be int64 [3] = (seed, offset, first_row)": (A, STATE[:2]),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments_are_named(message):
    with pytest.raises(RuntimeError) as error:
        torch.ops.sprout_fast.log_gamma.default(*WRONG[message])
    assert "sprout_fast::log_gamma: " + message in str(error.value)


@pytest.mark.parametrize(
    "message, arguments",
    [
        ("grad must be of concentration's dtype and shape", (A[:1], A, A)),
        ("log_g must be what log_gamma returned", (A, A, A.double())),
        ("concentration must be float32 or float64", (A, A.half(), A)),
    ],
)
def test_wrong_backward_arguments_are_named(message, arguments):
    with pytest.raises(RuntimeError) as error:
        torch.ops.sprout_fast.log_gamma_backward(*arguments)
    assert "sprout_fast::log_gamma_backward: " + message in str(error.value)


@pytest.mark.parametrize("concentration", [5.7e-29, 1e-31, 1e-33, 1e-36, 2e-38])
def test_gradient_beyond_float32_is_infinite(concentration):
    """It is about 1 / a^2, and not NaN although infinity meets G = 0."""
    a = torch.full((40,), concentration, requires_grad=True)
    log_g = log_gamma(a, STATE)
    (grad,) = torch.autograd.grad(log_g.sum(), a)
    assert (grad[log_g > -torch.inf] == torch.inf).all()
