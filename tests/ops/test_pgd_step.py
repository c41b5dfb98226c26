"""pgd_step_ against its reference implementation, bit for bit, and the projection of PGD."""

import pytest
import torch

from sprout_fast import pgd_step_, reference
from sprout_fast.reference.pgd_step import linf_bounds

FLOATING = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
EPS, STEP = 8 / 255, 2 / 255


def inputs(shape, dtype=torch.float32, grad=torch.float32, seed=0, eps=EPS):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=g, dtype=dtype)
    x_adv = (x + eps * (2 * torch.rand(shape, generator=g, dtype=dtype) - 1)).clamp(0, 1)
    signs = torch.randn(shape, generator=g).to(grad)
    return x_adv, torch.where(torch.rand(shape, generator=g) < 0.1, 0, signs), x


def check(x_adv, grad, x, **options):
    options = dict(step=STEP, eps=EPS) | options
    expected = reference.pgd_step_(x_adv.clone(), grad, x, **options)
    result = pgd_step_(x_adv, grad, x, **options)
    assert result is x_adv
    assert torch.equal(torch.nan_to_num(x_adv, nan=7.0), torch.nan_to_num(expected, nan=7.0))
    return x_adv


SHAPES = [(), (0,), (1,), (7,), (2, 0, 3), (33, 5), (2, 3, 16, 17), (40_001,)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("grad", FLOATING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_reference(shape, dtype, grad):
    check(*inputs(shape, dtype, grad))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.0, 1e-9, 1 / 255, 0.03, 8 / 255, 0.1, 1.0])
def test_exactly_within_eps(eps, dtype):
    x_adv, grad, x = inputs((50_000,), dtype, eps=3 * eps)
    x[:1000] *= 1e-6  # near 0, where floats are densest
    x[1000:1100] = 0
    x[1100:1200] = 1
    for _ in range(3):
        check(x_adv, grad, x, step=eps / 2, eps=eps)
        assert (x_adv.double() - x.double()).abs().max() <= eps
        assert x_adv.min() >= 0 and x_adv.max() <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_is_the_step_of_pgd(dtype):
    x_adv, grad, x = inputs((4, 3, 32, 32), dtype, dtype)
    lower, upper = linf_bounds(x, EPS)
    expected = torch.clamp(x_adv + STEP * grad.sign(), lower, upper)
    assert torch.equal(pgd_step_(x_adv, grad, x, step=STEP, eps=EPS), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exactly_within_eps_at_any_magnitude(dtype):
    """Center, eps and bound have different spacings of floats."""
    sign, grad, _ = inputs((50_000,), dtype)
    x = (sign - 0.5) * 2.0 ** torch.linspace(-60, 40, len(grad), dtype=dtype)
    for eps in (8 / 255, 0.03125, 1e-6, 1e-40):
        for x_adv in (x + 2 * eps * grad, x + 1.0001 * eps * grad.sign(), x * 1.1):
            check(x_adv, grad, x, step=eps, eps=eps, lower=-torch.inf, upper=torch.inf)
            assert (x_adv.double() - x.double()).abs().max() <= eps


def test_other_ranges():
    x_adv, grad, x = inputs((1000,))
    check(4 * x_adv - 2, grad, 4 * x - 2, lower=-2.0, upper=2.0)
    check(x_adv.clone(), grad, x, lower=-torch.inf, upper=torch.inf)
    result = check(x_adv.clone(), grad, x + 1, lower=0.25, upper=0.75)  # the range takes precedence
    assert ((result >= 0.25) & (result <= 0.75)).all()
    check(x_adv - 0.5, grad, x - 0.5, lower=-1.0)  # bounds on both sides of 0
    check(x_adv, grad, torch.zeros(1000), eps=1e-45, lower=-1.0)


def test_nan_and_inf():
    x_adv, grad, x = inputs((40,))
    grad[:4] = torch.tensor([torch.nan, -torch.nan, torch.inf, -torch.inf])
    x_adv[4:7] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    x[7:10] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    before = x_adv.clone()
    check(x_adv, grad, x)
    low, high = linf_bounds(x[:2], EPS)
    assert torch.equal(x_adv[:2], before[:2].clamp(low, high))  # no step
    assert x_adv.isnan().nonzero().flatten().tolist() == [4, 7]
    tiny = torch.tensor([1e-300, -1e-300], dtype=torch.float64)  # nonzero, although 0 in float32
    result = pgd_step_(torch.tensor([0.5, 0.5]), tiny, torch.tensor([0.5, 0.5]), step=0.1, eps=0.1)
    assert result[0] > 0.5 > result[1]


LAYOUTS = {
    "channels last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(1, 3),
    "sliced": lambda t: t[::2, :, 1:, ::3],
    "permuted slice": lambda t: t.permute(2, 0, 3, 1)[1:, ..., ::2],
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("which", ["all", "x_adv", "grad", "x"])
def test_layouts(name, which):
    layout = LAYOUTS[name]
    tensors = dict(zip(("x_adv", "grad", "x"), inputs((4, 3, 11, 12)), strict=True))
    whole = tensors["x_adv"].clone()
    tensors = {
        key: layout(t)
        if which in ("all", key)
        else layout(t).clone(memory_format=torch.contiguous_format)
        for key, t in tensors.items()
    }
    check(**tensors)
    # Nothing outside the view is written.
    if which in ("all", "x_adv") and name != "channels last":
        rest = torch.ones_like(whole, dtype=torch.bool)
        layout(rest)[:] = False
        base = tensors["x_adv"]._base
        assert torch.equal(base[rest], whole[rest])


def test_expanded_inputs():
    x_adv, grad, x = inputs((6, 5, 4))
    check(x_adv, grad[:1].expand(6, 5, 4), x[:, :1].expand(6, 5, 4), eps=1.0)
    check(x_adv, torch.tensor(1.0).expand(6, 5, 4), torch.tensor(0.5).expand(6, 5, 4))
    check(x_adv[:, :, None].transpose(0, 3), grad[:, :, None].transpose(0, 3),
          x[:, :, None].transpose(0, 3))  # fmt: skip


def test_shared_memory():
    """grad and x are used as before the call, whatever memory they share with x_adv."""
    x_adv, grad, x = inputs((1000,))
    check(x_adv.clone(), x_adv.clone(), x)
    same = x_adv.clone()
    expected = reference.pgd_step_(x_adv.clone(), grad, x_adv.clone(), step=STEP, eps=EPS)
    assert torch.equal(pgd_step_(same, grad, same, step=STEP, eps=EPS), expected)
    for shift in (1, -1, 17):
        buffer = torch.rand(1100)
        first, second = buffer[50:1050], buffer[50 + shift : 1050 + shift]
        args = [(first, second, x), (first, grad, second), (first, second, second)]
        for a, g, c in args:
            expected = reference.pgd_step_(a.clone(), g.clone(), c.clone(), step=STEP, eps=EPS)
            assert torch.equal(pgd_step_(a, g, c, step=STEP, eps=EPS), expected)
    square = torch.rand(30, 30)
    expected = reference.pgd_step_(
        square.clone(), square.T.clone(), square.T.clone(), step=1, eps=1
    )
    assert torch.equal(pgd_step_(square, square.T, square.T, step=1, eps=1), expected)


def test_an_attack_loop():
    """x_adv may be a leaf that requires grad, and its version counter is incremented."""
    x_adv, _, x = inputs((3, 4))
    weight = torch.tensor([1.0, -1.0, 0.0, 2.0])
    x_adv.requires_grad_()
    for _ in range(3):
        loss = (x_adv * weight).sum()
        (grad,) = torch.autograd.grad(loss, x_adv)
        version = x_adv._version
        assert pgd_step_(x_adv, grad, x, step=STEP, eps=EPS) is x_adv
        assert x_adv._version > version and x_adv.requires_grad and x_adv.is_leaf
    loss = x_adv.square().sum()
    pgd_step_(x_adv, grad, x, step=STEP, eps=EPS)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_does_not_depend_on_threads():
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            results.append(check(*(t[::2, 1:] for t in inputs((400, 301)))))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


@pytest.mark.parametrize("grad", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (0, 2), (3, 4)])
def test_opcheck(shape, grad):
    op = torch.ops.sprout_fast.pgd_step_.default
    torch.library.opcheck(op, (*inputs(shape, grad=grad), 0.1, 0.2, 0.0, 1.0))


def test_compiles_to_one_graph():
    def f(x_adv, grad, x):
        pgd_step_(x_adv, grad * 2, x, step=STEP, eps=EPS)
        return x_adv + 1

    x_adv, grad, x = inputs((4, 5))
    other = x_adv.clone()
    torch.testing.assert_close(torch.compile(f, fullgraph=True)(x_adv, grad, x), f(other, grad, x))
    assert torch.equal(x_adv, other)


X = torch.zeros(2, 3)
WRONG = {
    "x_adv must be float32 or float64, got bfloat16 [2, 3] on cpu": dict(x_adv=X.bfloat16()),
    "x_adv must not overlap itself": dict(x_adv=X[:1].expand(2, 3)),
    "x_adv must not overlap itself, as an expanded tensor does (clone it first), got": dict(
        x_adv=torch.zeros(9).as_strided((2, 3), (1, 1))
    ),
    "grad must be float64, float32, bfloat16 or float16 of x_adv's shape": dict(grad=X.long()),
    "grad must be float64, float32": dict(grad=X[:1]),
    "x must be of x_adv's dtype and of x_adv's shape on its device (float32 [2, 3] on cpu), got "
    "float64 [2, 3] on cpu": dict(x=X.double()),
    "x must be of x_adv's dtype": dict(x=X[:, :2]),
    "grad must be on the device of x_adv (cpu), got meta": dict(grad=X.to("meta")),
    "step must be finite and at least 0, got -1": dict(step=-1.0),
    "step must be finite and at least 0, got nan": dict(step=float("nan")),
    "eps must be finite and at least 0, got inf": dict(eps=float("inf")),
    "lower must be at most upper, got 1 and 0": dict(lower=1.0, upper=0.0),
    "lower must be at most upper, got nan and 1": dict(lower=float("nan")),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments_are_named(message):
    arguments = dict(x_adv=X.clone(), grad=X, x=X, step=0.1, eps=0.1) | WRONG[message]
    with pytest.raises(RuntimeError) as error:
        pgd_step_(**arguments)
    assert "sprout_fast::pgd_step_: " + message in str(error.value)
