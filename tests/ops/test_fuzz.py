"""Every op over combinations of dtypes, layouts, sizes, values and mistakes, by hypothesis.

A call gives its reference twin's result, or a RuntimeError or ValueError that names the op and the
argument; it changes none of its inputs, and again or on one thread it gives the same bits. The
examples are the same in every run; `SPROUT_FAST_FUZZ=long pytest tests/test_fuzz.py` tries others,
and many more.
"""

import os
import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sprout_fast
from sprout_fast import reference
from sprout_fast.reference.sprout_loss import concentrations as concentrations_of

USUAL = dict(derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
settings.register_profile("ci", **USUAL, max_examples=200)
settings.register_profile("short", **USUAL, max_examples=40)
settings.register_profile("long", **USUAL | dict(derandomize=False), max_examples=20_000)
settings.load_profile(os.environ.get("SPROUT_FAST_FUZZ", "ci"))

FLOATING = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
NOT_FLOATING = [torch.int64, torch.int16, torch.bool, torch.complex64]
INF, NAN = torch.inf, torch.nan


# Tensors


def poison(dtype):
    """What stands beside a view's elements, to show in a result if it is read."""
    if dtype.is_floating_point or dtype.is_complex:
        return NAN
    return True if dtype == torch.bool else torch.iinfo(dtype).max


def sliced(t):
    wide = torch.full([2 * n + 1 for n in t.shape], poison(t.dtype), dtype=t.dtype)
    view = wide[tuple(slice(1, None, 2) for _ in t.shape)]
    return view.copy_(t)


def transposed(t):
    return t.transpose(0, -1).contiguous().transpose(0, -1) if t.dim() > 1 else t


def channels_last(t):
    return t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t


def broadcast(t):
    return t[:1].expand_as(t) if t.dim() and len(t) else t


def overlapping(t):
    """Rows that begin one element apart."""
    if t.dim() < 2 or t.numel() == 0:
        return t
    return t.contiguous().as_strided(t.shape, (1, *t.contiguous().stride()[1:]))


LAYOUTS = [torch.clone, torch.clone, sliced, transposed, channels_last]
layouts = st.sampled_from([*LAYOUTS, broadcast, overlapping])
layouts_to_write = st.sampled_from(LAYOUTS)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def tensors(draw, shape, make, specials=(), layout=layouts):
    """`make(shape, generator)` with a few elements replaced by `specials`, in some layout."""
    t = make(shape, torch.Generator().manual_seed(draw(seeds)))
    if t.numel() and specials:
        flat = t.view(-1)
        for value in draw(st.lists(st.sampled_from(specials), max_size=3)):
            flat[draw(st.integers(0, t.numel() - 1))] = value
    return draw(layout)(t)


def normals(dtype, spread=3.0):
    return lambda shape, g: (spread * torch.randn(shape, generator=g)).to(dtype)


def uniforms(dtype):
    if dtype == torch.uint8:
        return lambda shape, g: torch.randint(256, shape, generator=g).to(dtype)
    return lambda shape, g: torch.rand(shape, generator=g).to(dtype)


def powers(dtype, low, high):
    """Log-uniform from 10^low to 10^high."""
    return lambda shape, g: (
        10 ** (low + (high - low) * torch.rand(shape, generator=g).double())
    ).to(dtype)


def indices(end):
    return lambda shape, g: torch.randint(end, shape, generator=g)


rng_states = st.builds(
    lambda seed, offset, row, layout: layout(torch.tensor([seed, offset, row])),
    seed=st.integers(-(2**63), 2**63 - 1),
    offset=st.integers(0, 2**33),
    row=st.integers(0, 2**30),
    layout=layouts_to_write,
)


# Mistakes


class Bad:
    """How an argument can be wrong: dtypes and values that are not taken, and its shape."""

    def __init__(self, dtypes=(), values=(), kinds=("rank", "longer", "device", "none")):
        self.dtypes, self.values, self.of_any_tensor = dtypes, values, kinds

    def kinds(self, value):
        if not isinstance(value, torch.Tensor):
            return ["value"] if self.values else []
        kinds = [*self.of_any_tensor, "dtype"]
        return [*kinds, "value"] if self.values and value.numel() else kinds


RNG_STATE = Bad([torch.int32, torch.float64])


@st.composite
def mistaken(draw, arguments, bad):
    """Some of the `arguments` wrong, or mostly none; the names of which an error must have one."""
    if draw(st.integers(0, 2)) > 0:
        return arguments, set()
    choices = [
        (name, kind)
        for name, how in bad.items()
        if arguments[name] is not None
        for kind in how.kinds(arguments[name])
    ]
    name, kind = draw(st.sampled_from(choices))
    value, how = arguments[name], bad[name]
    names = {name}
    if kind == "dtype":
        value = value.to(draw(st.sampled_from(how.dtypes)))
    elif kind == "rank":
        value = value.unsqueeze(draw(st.integers(0, value.dim())))
    elif kind == "longer":
        value = value.view(1) if value.dim() == 0 else value
        value = torch.cat([value, value.new_zeros(7, *value.shape[1:])])
    elif kind == "device":
        value = value.to("meta")
    elif kind == "none":
        value = None
    else:
        wrong = draw(st.sampled_from(how.values))
        if isinstance(value, torch.Tensor):
            value = value.clone()
            value.view(-1)[draw(st.integers(0, value.numel() - 1))] = wrong
        else:
            value = wrong
    # The first tensor is what the others are measured by.
    if kind in ("rank", "longer", "device") or value is None:
        names = set(arguments)
    return arguments | {name: value}, names


# The check


def bits(t):
    return t.detach().clone(memory_format=torch.contiguous_format).view(-1).view(torch.uint8)


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


def outcome(call, arguments, threads):
    torch.set_num_threads(threads)
    try:
        return call(**arguments)
    except (RuntimeError, ValueError) as error:
        return error


def check(op, call, arguments, wrong, written=()):
    """`call(**arguments)`, a tuple of tensors, made thrice; None where it is an error as it should.

    Arguments in `written` are cloned for each call, in their layout.
    """
    before = {k: v.clone() for k, v in arguments.items() if _has_values(v)}
    results = []
    for threads in (2, 2, 1):
        fresh = {k: torch.empty_like(v).copy_(v) for k, v in arguments.items() if k in written}
        results.append(outcome(call, arguments | fresh, threads))
    for name, value in before.items():
        assert same_bits(value, arguments[name]), f"{name} was written to"
    first, *others = results
    if isinstance(first, Exception):
        message = str(first)
        assert wrong, message
        named = re.match(rf"sprout_fast::{op}\b", message)
        assert named and any(re.search(rf"\b{name}\b", message) for name in wrong), (wrong, message)
        assert all(str(first) == str(other) for other in others)
        return None
    assert not wrong, f"no error for a wrong {wrong}"
    for other in others:
        for a, b in zip(first, other, strict=True):
            assert (a is None and b is None) or same_bits(a, b)
    return first


def _has_values(v):
    return isinstance(v, torch.Tensor) and v.device.type == "cpu"


def leaf(t):
    """A floating t as something that a gradient can be asked for; None else."""
    return t.detach().requires_grad_() if t is not None and t.is_floating_point() else t


def with_gradients(f, wanted, weight=None):
    """f's result and its gradients to the arguments named, as far as they are floating."""

    def call(**arguments):
        w = arguments.pop("weight", weight)
        leaves = {k: leaf(arguments[k]) for k in wanted if _has_values(arguments[k])}
        value = f(**(arguments | leaves))
        inputs = [v for v in leaves.values() if v.requires_grad]
        if not inputs:
            return (value,)
        w = torch.ones_like(value) if w is None else w.to(value.dtype)
        grads = torch.autograd.grad(value, inputs, w, allow_unused=True)
        return value.detach(), *grads

    return call


def close(ours, expected, rtol, atol, where=None):
    """Equal within tolerance, infinities and NaN included, where `where` holds."""
    ours, expected = ours.double(), expected.double()
    if where is not None:
        ours, expected = ours[where], expected[where]
    torch.testing.assert_close(ours, expected, rtol=rtol, atol=atol, equal_nan=True)


@pytest.fixture(autouse=True, scope="module")
def restore_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


# The ops

CONCENTRATION = Bad([*NOT_FLOATING, torch.float16], [-1.0, -INF, INF, NAN], ["device", "none"])
SMALL_SHAPES = st.lists(st.integers(0, 5), max_size=3)


def concentrations(dtype):
    """Alike in some examples, of all sizes in others."""
    return st.sampled_from(
        [powers(dtype, low, high) for low, high in [(-30, 30), (-3, 2), (-9, -7), (18, 22), (0, 0)]]
    )


def nats(a, log_g):
    """How far apart log G of op and twin may be: a few units of the dtype, and the distribution's
    whole width where a large d makes an attempt's d - d v + d log v noise in either of them."""
    width = torch.where(a > 1e5, 20 / a.double().sqrt(), 0)
    return 16 * torch.finfo(a.dtype).eps * (1 + log_g.abs()) + width


@given(data=st.data())
def test_log_gamma(data):
    dtype = data.draw(st.sampled_from(FLOATING[:2]))
    make = data.draw(concentrations(dtype))
    arguments, wrong = data.draw(
        mistaken(
            dict(
                concentration=data.draw(tensors(data.draw(SMALL_SHAPES), make, [0.0, 1e-44])),
                rng_state=data.draw(rng_states),
            ),
            dict(concentration=CONCENTRATION, rng_state=RNG_STATE),
        )
    )
    call = with_gradients(sprout_fast.log_gamma, ["concentration"])
    result = check("log_gamma", call, arguments, wrong)
    if result is None:
        return
    log_g, grad = result
    expected = reference.log_gamma(**arguments)
    finite = expected > torch.finfo(dtype).min
    assert (log_g[~finite] == -INF).all()
    error = (log_g.double() - expected).abs()
    assert (error <= nats(arguments["concentration"], expected))[finite].all()
    assert (grad[log_g == -INF] == 0).all() and (grad[log_g != -INF] >= 0).all()


@given(data=st.data())
def test_dirichlet(data):
    dtype = data.draw(st.sampled_from(FLOATING[:2]))
    make = data.draw(concentrations(dtype))
    shape = [*data.draw(st.lists(st.integers(0, 4), max_size=2)), data.draw(st.integers(1, 40))]
    weight = data.draw(tensors(shape, normals(dtype)))
    arguments, wrong = data.draw(
        mistaken(
            dict(
                concentration=data.draw(tensors(shape, make, [0.0, 1e-44])),
                rng_state=data.draw(rng_states),
            ),
            dict(concentration=CONCENTRATION, rng_state=RNG_STATE),
        )
    )
    call = with_gradients(sprout_fast.dirichlet, ["concentration"], weight)
    result = check("dirichlet", call, arguments, wrong)
    if result is None:
        return
    z, grad = result
    a = arguments["concentration"]
    log_g = reference.log_gamma(**arguments)
    top = log_g.amax(-1, keepdim=True)
    defined = (top > torch.finfo(dtype).min).squeeze(-1)  # log G within the dtype's range
    assert (z[defined] >= 0).all() and (z[a == 0].nan_to_num(nan=0) == 0).all()
    close(z.sum(-1), torch.ones(shape[:-1]), 1e-5, 0, defined)
    assert z[~defined].isnan().all() and not grad[defined].isnan().any()
    expected = reference.dirichlet(**arguments)
    apart = nats(a, top).amax(-1, keepdim=True)
    near = (z.double() - expected).abs() <= 4 * apart * expected + 1e-17
    assert near[defined & (apart < 0.1).squeeze(-1)].all()


@given(data=st.data())
def test_sample_mixup(data):
    a = data.draw(st.sampled_from([0.01, 0.2, 1.0, 1e5]) | st.floats(1e-30, 1e5))
    arguments, wrong = data.draw(
        mistaken(
            dict(
                rng_state=data.draw(rng_states),
                batch_size=data.draw(st.integers(0, 9)),
                mixup_alpha=a,
                per_sample=data.draw(st.booleans()),
            ),
            dict(
                # Of no tensor, or of a meta tensor alone, the dispatcher knows what to do.
                rng_state=Bad([torch.int32, torch.float64], kinds=["rank", "longer"]),
                batch_size=Bad(values=[-1, 2**31, 2**70, 2.5]),
                mixup_alpha=Bad(values=[0.0, -1.0, 1e-31, 1e6, NAN, INF]),
            ),
        )
    )
    result = check("sample_mixup", sprout_fast.sample_mixup, arguments, wrong)
    if result is None:
        return
    partner, lam = result
    expected_partner, expected_lam = reference.sample_mixup(**arguments)
    assert torch.equal(partner, expected_partner)
    assert ((lam >= 0) & (lam <= 1)).all()
    # log U reaches -22.9, and is divided by a.
    apart = nats(torch.tensor([a]), torch.tensor([25 / min(a, 1)])).item()
    if apart < 0.1:
        close(lam, expected_lam, 4 * apart, 1e-12)


LAM = Bad([torch.float64, torch.int64], [-0.1, 1.5, 1e30, NAN, INF])


@st.composite
def partners_and_lam(draw, batch, end, name):
    if draw(st.integers(0, 2)) == 0:
        return {name: None, "lam": None}
    one = draw(st.booleans())
    return {
        name: draw(tensors([batch], indices(end))),
        "lam": draw(tensors([1 if one else batch], uniforms(torch.float32), [0.0, 1.0])),
    }


def numbers(channels, low, high):
    one = st.floats(low, high, width=32)
    return one | st.lists(one, min_size=channels, max_size=channels)


@given(data=st.data())
def test_gaussian_mixup(data):
    image_dtype = data.draw(st.sampled_from([torch.uint8, *FLOATING]))
    dtype = data.draw(st.sampled_from(FLOATING))
    batch, channels = data.draw(st.integers(0, 3)), data.draw(st.sampled_from([1, 2, 3, 4, 16]))
    shape = [batch, channels, data.draw(st.integers(0, 9)), data.draw(st.integers(0, 9))]
    specials = [] if image_dtype == torch.uint8 else [NAN, INF, -INF, -3.0, 100.0]
    arguments, wrong = data.draw(
        mistaken(
            dict(
                images=data.draw(tensors(shape, uniforms(image_dtype), specials)),
                **data.draw(partners_and_lam(batch, max(batch, 1), "partner")),
                rng_state=data.draw(rng_states),
                sigma=data.draw(numbers(channels, 0, 2) | st.just(0.0)),
                mean=data.draw(numbers(channels, -2, 2) | st.none()),
                std=data.draw(numbers(channels, 0.125, 4) | st.none()),
                noise=data.draw(st.sampled_from(["marginal", "paired"])),
                dtype=dtype,
            ),
            dict(
                images=Bad(NOT_FLOATING, kinds=["rank", "device", "none"]),
                partner=Bad([torch.int32, torch.float32], [-1, batch, 2**40, -(2**63)]),
                lam=LAM,
                rng_state=RNG_STATE,
                sigma=Bad(values=[-0.1, NAN, INF, [0.1] * 17, [], "much", 1j]),
                mean=Bad(values=[NAN, INF, [0.1] * 17, []]),
                std=Bad(values=[0.0, -1.0, NAN, [1.0] * 17, []]),
                noise=Bad(values=["", "both"]),
                dtype=Bad(values=[torch.int64, torch.uint8, torch.complex64]),
            ),
        )
    )
    weight = data.draw(tensors(shape, normals(dtype), layout=layouts))
    call = with_gradients(sprout_fast.gaussian_mixup, ["images"], weight)
    result = check("gaussian_mixup", call, arguments, wrong)
    if result is None:
        return
    exact = arguments | dict(dtype=torch.float64)
    if image_dtype != torch.uint8:
        exact["images"] = arguments["images"].double()
    expected = with_gradients(reference.gaussian_mixup, ["images"], weight)(**exact)
    for ours, value in zip(result, expected, strict=False):
        double = ours.dtype == dtype == torch.float64 and image_dtype in (torch.uint8, ours.dtype)
        finite = value.isfinite()
        size = value[finite].abs().max().item() if finite.any() else 0.0
        # float32's rounding of terms that are larger than their sum, and the result's own rounding.
        tolerance = (1e-11 if double else 1e-5) * (1 + size) + torch.finfo(ours.dtype).eps * size
        close(ours, value, 0, tolerance, finite)


LOGITS = Bad(NOT_FLOATING)
REDUCTION = Bad(values=["", "max"])


@st.composite
def logits_and_rows(draw):
    """Logits, and the rows in which all are finite, and in which none is NaN or inf."""
    dtype = draw(st.sampled_from(FLOATING))
    shape = [draw(st.integers(0, 5)), draw(st.sampled_from([1, 2, 3, 15, 16, 17, 40]))]
    specials = draw(st.sampled_from([[1e4, -1e4], [-INF], [NAN, INF, -INF]]))
    logits = draw(tensors(shape, normals(dtype), specials))
    usual = ~(logits.isnan() | (logits == INF)).any(1) & (logits > -INF).any(1)
    return logits, logits.isfinite().all(1), usual


def precision(logits):
    """Of what is computed of them, relative to its size."""
    return 1e-5 if logits.dtype != torch.float64 else 1e-11


def check_losses(loss, expected, logits, rows):
    """In the `rows`, or, of a loss of all rows, if they are all."""
    size = 10 + logits[logits.isfinite()].double().abs().sum().item()
    if loss.dim() == 0:
        rows = rows.all() & (len(logits) > 0)
    close(loss, expected, precision(logits), precision(logits) * size, rows)


def check_gradient(ours, expected, logits, rows):
    """Rounded once to its own dtype."""
    tolerance = 2 * torch.finfo(ours.dtype).eps + precision(logits)
    close(ours, expected, tolerance, tolerance, rows)


@given(data=st.data())
def test_generalized_cross_entropy(data):
    logits, finite, usual = data.draw(logits_and_rows())
    batch, classes = logits.shape
    if data.draw(st.booleans()):
        target = data.draw(tensors([batch], indices(classes)))
        bad_target = Bad([torch.int32, torch.bool], [-1, classes, 2**40, -(2**63)])
    else:
        of = data.draw(st.sampled_from(FLOATING))
        target = data.draw(tensors([batch, classes], uniforms(of), [0.0, 2.5, -1.0]))
        bad_target = Bad([torch.int64, torch.complex64])
    reduction = data.draw(st.sampled_from(["mean", "sum", "none"]))
    arguments, wrong = data.draw(
        mistaken(
            dict(
                logits=logits,
                target=target,
                label_smoothing=data.draw(st.sampled_from([0.0, 0.1, 1.0])),
                reduction=reduction,
            ),
            dict(
                logits=LOGITS,
                target=bad_target,
                label_smoothing=Bad(values=[-0.1, 1.5, NAN]),
                reduction=REDUCTION,
            ),
        )
    )
    call = with_gradients(sprout_fast.generalized_cross_entropy, ["logits", "target"])
    result = check("generalized_cross_entropy", call, arguments, wrong)
    if result is None:
        return
    exact = {k: v.double() if _has_values(v) and v.dim() == 2 else v for k, v in arguments.items()}
    call = with_gradients(reference.generalized_cross_entropy, ["logits", "target"])
    expected = call(**exact)
    check_losses(result[0], expected[0], logits, usual)
    for ours, theirs in zip(result[1:], expected[1:], strict=True):
        check_gradient(ours, theirs, logits, finite)


@given(data=st.data())
def test_sprout_loss(data):
    logits, finite, usual = data.draw(logits_and_rows())
    batch, classes = logits.shape
    alpha, scale = data.draw(
        st.sampled_from([(0.01, 1.0), (1 / 11, 11.0), (0.5, 100.0), (0.0, 1.0), (1.0, 3.0)])
    )
    label_mode = data.draw(st.sampled_from(["sample", "mean"]))
    beta_grad = data.draw(st.sampled_from(["implicit", "expected", "none"]))
    reduction = data.draw(st.sampled_from(["mean", "sum", "none"]))
    labels = Bad([torch.int32, torch.float32], [-1, classes, 2**40, -(2**63)])
    arguments, wrong = data.draw(
        mistaken(
            dict(
                logits=logits,
                labels=data.draw(tensors([batch], indices(classes))),
                **data.draw(partners_and_lam(batch, classes, "partner_labels")),
                beta=data.draw(tensors([classes], powers(torch.float32, -2, 1), [0.0])),
                rng_state=data.draw(rng_states),
                alpha=alpha,
                scale=scale,
                label_mode=label_mode,
                beta_grad=beta_grad,
                reduction=reduction,
            ),
            dict(
                logits=LOGITS,
                labels=labels,
                partner_labels=labels,
                lam=LAM,
                beta=Bad([torch.float64, torch.int64], [-1.0, INF, NAN]),
                rng_state=RNG_STATE,
                alpha=Bad(values=[-0.1, 1.5, NAN]),
                scale=Bad(values=[0.0, -1.0, NAN, INF, 1e31]),
                label_mode=Bad(values=["", "median"]),
                beta_grad=Bad(values=["", "exact"]),
                reduction=REDUCTION,
            ),
        )
    )
    call = with_gradients(sprout_fast.sprout_loss, ["logits", "beta"])
    result = check("sprout_loss", call, arguments, wrong)
    if result is None:
        return
    loss, grad_logits, grad_beta = result
    names = ["labels", "partner_labels", "lam", "beta", "alpha", "scale"]
    a = concentrations_of(**{name: arguments[name] for name in names})
    has_mass = a.sum(1) > 0
    # The reference has 0 x inf = NaN where, in the op, a class without mass counts for nothing.
    exact = arguments | dict(logits=logits.double().clamp(min=-1e300))
    expected = with_gradients(reference.sprout_loss, ["logits", "beta"])(**exact)
    value = torch.where(expected[0] > 1e280, INF, expected[0])
    clear = (value < 1e20) | (value == INF)  # between them the variate is one that gets z = 0
    check_losses(loss, value, logits, usual & has_mass & clear)
    check_gradient(grad_logits, expected[1], logits, finite & has_mass)
    if (finite & has_mass).all() and grad_beta is not None:
        assert grad_beta.isfinite().all()


@given(data=st.data())
def test_pgd_step_(data):
    dtype = data.draw(st.sampled_from(FLOATING[:2]))
    grad_dtype = data.draw(st.sampled_from(FLOATING))
    shape = data.draw(SMALL_SHAPES) or [2, 3, 5, 7]
    specials = [NAN, INF, -INF, 0.0, -0.0, 1e-40]
    arguments, wrong = data.draw(
        mistaken(
            dict(
                x_adv=data.draw(tensors(shape, uniforms(dtype), specials, layouts_to_write)),
                grad=data.draw(tensors(shape, normals(grad_dtype), specials)),
                x=data.draw(tensors(shape, uniforms(dtype), specials)),
                step=data.draw(st.sampled_from([0.0, 2 / 255, 1e30])),
                eps=data.draw(st.sampled_from([0.0, 8 / 255, 1e-12, 1e30])),
                lower=data.draw(st.sampled_from([0.0, -1.0, -INF])),
                upper=data.draw(st.sampled_from([1.0, 0.0, INF])),
            ),
            dict(
                x_adv=Bad([*NOT_FLOATING, torch.float16], kinds=["rank", "longer", "device"]),
                grad=Bad(NOT_FLOATING, kinds=["rank", "longer", "device"]),
                x=Bad([*NOT_FLOATING, torch.float16], kinds=["rank", "longer", "device"]),
                step=Bad(values=[-1.0, NAN, INF]),
                eps=Bad(values=[-1.0, NAN, INF]),
                lower=Bad(values=[NAN]),
                upper=Bad(values=[NAN]),
            ),
        )
    )

    def call(**arguments):
        return (sprout_fast.pgd_step_(**arguments),)

    result = check("pgd_step_", call, arguments, wrong, written=["x_adv"])
    if result is not None:
        expected = reference.pgd_step_(**(arguments | dict(x_adv=arguments["x_adv"].clone())))
        assert torch.equal(result[0].nan_to_num(nan=7.0), expected.nan_to_num(nan=7.0))
