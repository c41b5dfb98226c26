"""Inputs of every op, and comparisons of its results on another device with those on the CPU.

A comparison looks at each element on its own: it allows a relative error of ``rtol`` of the
element and of the terms that cancelled in it, never of the largest element. Draws on both devices
differ by ulps, so that about once in a million draws one of them accepts what the other rejects,
which changes the element or its whole row: one of three random states may therefore differ, but
not two.

``tests/ops/test_cuda.py`` uses them on a GPU. ``tests/ops/test_gate.py`` shows on the CPU that they
accept rounding and catch wrong kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from helpers.op_inputs import STATE
from torch import Tensor

from sprout_fast import (
    dirichlet,
    gaussian_mixup,
    generalized_cross_entropy,
    log_gamma,
    meter_step_,
    pgd_step_,
    sample_mixup,
    sprout_loss,
)
from sprout_fast.reference.sprout_loss import concentrations

# Largest relative error of one rounding.
ROUNDING = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
}
# unseen_nats<float>() of csrc/ops/sprout_loss_args.h.
UNSEEN_NATS = 24
Results = dict[str, Tensor]


@dataclass(frozen=True)
class Bound:
    """What one result may differ by.

    Args:
        rtol: relative error of an element and of ``size``; 0 compares bits.
        size: magnitude of the terms that an element is the sum of: a number or a tensor that
            broadcasts to the result.
        least: what any element may differ by.
    """

    rtol: float
    size: float | Tensor = 0.0
    least: float = 0.0

    def check(self, name: str, actual: Tensor, expected: Tensor) -> None:
        """Raise an AssertionError that names the result and its worst element."""
        assert actual.shape == expected.shape, f"{name}: {actual.shape}, not {expected.shape}"
        assert actual.dtype == expected.dtype, f"{name}: {actual.dtype}, not {expected.dtype}"
        a, e = actual.detach().cpu().double(), expected.detach().double()
        size = self.size.double() if isinstance(self.size, Tensor) else self.size
        allowed = self.rtol * (e.abs() + size) + self.least
        # Equal infinities and NaNs agree; any other nonfinite value does not.
        same = (a == e) | (a.isnan() & e.isnan())
        wrong = ~(same | ((a - e).abs() <= allowed))
        if wrong.any():
            excess = torch.where(wrong, ((a - e).abs() / allowed).nan_to_num(torch.inf), 0.0)
            worst = int(excess.argmax())
            raise AssertionError(
                f"{name}: {int(wrong.sum())} of {wrong.numel()} elements differ, most element"
                f" {worst}: {a.flatten()[worst]:.9g}, expected {e.flatten()[worst]:.9g}"
            )


@dataclass(frozen=True)
class Case:
    """One op with its inputs.

    Args:
        call: computes the results, by name, on a device with a random state.
        bounds: what each may differ by, with a random state.
    """

    call: Callable[[str, Tensor], Results]
    bounds: Callable[[Tensor], dict[str, Bound]]

    def compare(self, actual: Results, expected: Results, state: Tensor) -> None:
        """Raise an AssertionError unless every result is within its bound."""
        bounds = self.bounds(state)
        assert actual.keys() == expected.keys() == bounds.keys()
        for name, bound in bounds.items():
            bound.check(name, actual[name], expected[name])

    def check(self, device: str) -> None:
        """Compare the results on ``device`` with those on the CPU, for up to three states."""
        failures = []
        for step in range(3):
            state = STATE + torch.tensor([0, step, 0])
            try:
                self.compare(self.call(device, state), self.call("cpu", state), state)
            except AssertionError as error:
                failures.append(error)
            if len(failures) > 1:
                raise failures[0]
            if not failures:
                return


def sample_mixup_case(batch: int = 300, per_sample: bool = True) -> Case:
    def call(device: str, state: Tensor) -> Results:
        partner, lam = sample_mixup(batch, state.to(device), per_sample=per_sample)
        return {"partner": partner, "lam": lam}

    # lam is a sigmoid of a difference of two log gammas of up to about 1e2.
    return Case(call, lambda state: {"partner": Bound(0), "lam": Bound(3e-5)})


def sample_mixup_in_place_case(batch: int = 300) -> Case:
    labels = torch.arange(batch) % 7

    def call(device: str, state: Tensor) -> Results:
        rng, first_row = state[:2].clone().to(device), state[2:].to(device)
        drawn = torch.ops.sprout_fast.sample_mixup_(rng, first_row, labels.to(device), 0.2, True)
        names = ("partner", "lam", "partner_labels", "used_rng")
        return dict(zip(names, drawn, strict=True)) | {"rng": rng}

    exact = {name: Bound(0) for name in ("partner", "partner_labels", "used_rng", "rng")}
    return Case(call, lambda state: {**exact, "lam": Bound(3e-5)})


def meter_step_case(classes: int = 100, dtype: torch.dtype = torch.float32) -> Case:
    generator = torch.Generator().manual_seed(8)
    logits = torch.randn(65, classes, generator=generator).to(dtype)
    labels, partner_labels = logits.argmax(1), torch.randint(classes, (65,), generator=generator)
    labels[::3] = partner_labels[::3]
    lam = torch.rand(65, generator=generator)

    def call(device: str, state: Tensor) -> Results:
        sums = torch.tensor(1.5, dtype=torch.float64), torch.tensor(7), torch.tensor(-1)
        sums = tuple(t.to(device) for t in sums)
        batch = (torch.tensor(0.7), logits, labels, partner_labels, lam)
        meter_step_(*sums, *(t.to(device) for t in batch), step=3)
        return {"loss_sum": sums[0], "counts": torch.stack(sums[1:])}

    return Case(call, lambda state: {"loss_sum": Bound(0), "counts": Bound(0)})


def gaussian_mixup_case(
    shape: tuple[int, int, int, int],
    image_dtype: torch.dtype = torch.uint8,
    dtype: torch.dtype = torch.float32,
    noise: str = "marginal",
    memory_format: torch.memory_format = torch.channels_last,
) -> Case:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    if image_dtype != torch.uint8:
        images = (images / 255).to(image_dtype)
    images = images.contiguous(memory_format=memory_format)
    partner, lam = sample_mixup(shape[0], STATE, per_sample=True)

    def call(device: str, state: Tensor) -> Results:
        tensors = (t.to(device) for t in (images, partner, lam, state))
        return {"out": gaussian_mixup(*tensors, mean=0.4, std=0.2, noise=noise, dtype=dtype)}

    # (x + sigma n - mean) / std: terms of up to about (1 + 0.5 + 0.4) / 0.2, seldom all at once.
    rtol = max(4 * ROUNDING[torch.float32], 2 * ROUNDING[dtype])
    return Case(call, lambda state: {"out": Bound(rtol, 4.0)})


def gaussian_mixup_gradient_case() -> Case:
    generator = torch.Generator().manual_seed(2)
    x, weights = torch.rand(2, 6, 3, 16, 16, generator=generator)
    partner, lam = torch.tensor([1, 1, 1, 3, 0, 2]), torch.rand(6, generator=generator)

    def call(device: str, state: Tensor) -> Results:
        leaf = x.to(device).requires_grad_()
        out = gaussian_mixup(leaf, partner.to(device), lam.to(device), state.to(device))
        return {"grad": torch.autograd.grad(out, leaf, weights.to(device))[0]}

    return Case(call, lambda state: {"grad": Bound(4 * ROUNDING[torch.float32], 1.0)})


def sprout_loss_case(
    classes: int,
    *,
    alpha: float = 0.01,
    scale: float = 1.0,
    label_mode: str = "sample",
    beta_grad: str = "implicit",
    dtype: torch.dtype = torch.float32,
) -> Case:
    generator = torch.Generator().manual_seed(3)
    batch = 33 if classes <= 1000 else 2
    logits = (3 * torch.randn(batch, classes, generator=generator)).to(dtype)
    labels, partner_labels = torch.randint(classes, (2, batch), generator=generator)
    lam, beta = torch.rand(batch, generator=generator), torch.rand(classes, generator=generator)
    options = dict(alpha=alpha, scale=scale, label_mode=label_mode, beta_grad=beta_grad)

    def call(device: str, state: Tensor) -> Results:
        x, b = (t.to(device).requires_grad_() for t in (logits, beta))
        rows = (t.to(device) for t in (labels, partner_labels, lam))
        losses = sprout_loss(x, *rows, b, state.to(device), reduction="none", **options)
        grads = torch.autograd.grad(losses.mean(), (x, b))
        return {"losses": losses.detach(), "grad_logits": grads[0], "grad_beta": grads[1]}

    def bounds(state: Tensor) -> dict[str, Bound]:
        # Element k of grad_logits is (softmax - z) / B. Of grad_beta it is the mean over rows of
        # z_k (c_k - L) slope_k, where c_k and L cancel; z and slope are those of the expectation
        # unless the gradient goes through the draw.
        cost = -logits.double().log_softmax(1)
        a = concentrations(labels, partner_labels, lam, beta, alpha=alpha, scale=scale)
        if label_mode == "sample" and beta_grad == "implicit":
            leaf = a.float().requires_grad_()
            log = log_gamma(leaf, state)
            slope = torch.autograd.grad(log.sum(), leaf)[0].double()
            z = log.detach().double().softmax(1)
        else:
            z = a / a.sum(1, keepdim=True)
            slope = 1 / a
        terms = z * slope * (cost + (z * cost).sum(1, keepdim=True)) * scale * alpha
        softmax = logits.double().softmax(1) / batch
        # Either device may drop a variate this far below the label's.
        unseen = math.exp(-UNSEEN_NATS) / batch
        return {
            "losses": Bound(1e-4),
            "grad_logits": Bound(1e-4 + 2 * ROUNDING[dtype], softmax, unseen),
            "grad_beta": Bound(2e-5, terms.mean(0)),
        }

    return Case(call, bounds)


def samples_case(op: str, shape: tuple[int, int], dtype: torch.dtype = torch.float32) -> Case:
    """Return ``log_gamma`` or ``dirichlet`` for concentrations from 1e-4 to 1e4."""
    concentration = torch.logspace(-4, 4, shape[0] * shape[1], dtype=dtype).view(shape)
    function = {"log_gamma": log_gamma, "dirichlet": dirichlet}[op]
    generator = torch.Generator().manual_seed(4)
    weights = torch.rand(shape, generator=generator, dtype=dtype) + 0.5

    def call(device: str, state: Tensor) -> Results:
        leaf = concentration.to(device).requires_grad_()
        out = function(leaf, state.to(device))
        return {
            "samples": out.detach(),
            "grad": torch.autograd.grad(out, leaf, weights.to(device))[0],
        }

    rtol = 3e-5 if dtype == torch.float32 else 1e-10
    if op == "log_gamma":
        # log G crosses 0 at G = 1, where its error is that of G.
        return Case(call, lambda state: {"samples": Bound(rtol, 0.05), "grad": Bound(rtol)})

    def bounds(state: Tensor) -> dict[str, Bound]:
        leaf = concentration.clone().requires_grad_()
        log = log_gamma(leaf, state)
        slope = torch.autograd.grad(log.sum(), leaf)[0].double().abs()
        # z_k = exp(log G_k - log sum G): the error of the logarithms, and in the gradient the two
        # terms z_k w_k and z_k sum_j z_j w_j, times the slope.
        z = log.detach().double().softmax(1)
        logs = z * (1 + log.detach().double().abs())
        return {"samples": Bound(rtol, logs), "grad": Bound(rtol, (2 * z + logs) * slope)}

    return Case(call, bounds)


def generalized_cross_entropy_case(
    classes: int, target_kind: str, reduction: str, dtype: torch.dtype
) -> Case:
    generator = torch.Generator().manual_seed(5)
    batch = 33 if classes <= 1000 else 3
    logits = (3 * torch.randn(batch, classes, generator=generator)).to(dtype)
    target = torch.randint(classes, (batch,), generator=generator)
    if target_kind == "probabilities":
        target = torch.randn(batch, classes, generator=generator).softmax(1).to(dtype)

    def call(device: str, state: Tensor) -> Results:
        leaf = logits.to(device).requires_grad_()
        loss = generalized_cross_entropy(
            leaf, target.to(device), label_smoothing=0.1, reduction=reduction
        )
        return {"loss": loss.detach(), "grad": torch.autograd.grad(loss.sum(), leaf)[0]}

    # A sum of K terms in several lanes, in another order on each device.
    ulps = 16 + classes**0.5 / 8
    computed = ulps * ROUNDING[torch.float64 if dtype == torch.float64 else torch.float32]
    # exp(log p): an error of log p is relative to its size.
    log_p = logits.double().log_softmax(1)
    terms = log_p.exp() * (1 - log_p) / (batch if reduction == "mean" else 1)
    # float16 rounds small gradients to multiples of its smallest number.
    least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    grad = Bound(computed + 2 * ROUNDING[dtype], terms, least)
    return Case(call, lambda state: {"loss": Bound(computed), "grad": grad})


def pgd_step_case(layout: str = "dense", grad_dtype: torch.dtype = torch.float32) -> Case:
    generator = torch.Generator().manual_seed(6)
    x, x_adv, grad = torch.rand(3, 4, 3, 9, 11, generator=generator)

    def call(device: str, state: Tensor) -> Results:
        tensors = [t.to(device) for t in (x_adv.clone(), grad.to(grad_dtype) - 0.5, x)]
        if layout == "strided":
            tensors = [t.transpose(1, 3) for t in tensors]
        if layout == "misaligned":
            tensors = [t.flatten()[1:] for t in tensors]
        return {"x_adv": pgd_step_(*tensors, step=2 / 255, eps=8 / 255)}

    return Case(call, lambda state: {"x_adv": Bound(0)})


def sprout_step_case(classes: int, *, dtype: torch.dtype = torch.float32) -> Case:
    """Return a training step of the loss: its value, and the state that it leaves."""
    generator = torch.Generator().manual_seed(9)
    batch = 33 if classes <= 1000 else 2
    logits = (3 * torch.randn(batch, classes, generator=generator)).to(dtype)
    labels, partner_labels = torch.randint(classes, (2, batch), generator=generator)
    lam = torch.rand(batch, generator=generator)
    beta, velocity = torch.rand(2, classes, generator=generator)
    # The gradient, of which sprout_loss_case has the bounds, moves beta by far less than its size.
    step = [1.0, 1e-2, 0.9, 0.01, 1e-3, 0.4 * classes]

    def call(device: str, state: Tensor) -> Results:
        rng = state[:2].clone().to(device)
        written = [t.clone().to(device) for t in (beta, velocity, torch.zeros(classes))]
        b, v, grad_sum = written
        rows = (t.to(device) for t in (logits, labels, partner_labels, lam))
        options = (0.01, 1.0, "sample", "expected")
        loss, used_beta, used_rng, *_ = torch.ops.sprout_fast.sprout_loss_(
            *rows, b, rng, state[2:].to(device), *options, grad_sum, 1.0, v,
            torch.tensor(0.5, device=device), step, False,
        )  # fmt: skip
        return {
            "loss": loss, "beta": b, "velocity": v, "grad_sum": grad_sum, "rng": rng,
            "used_beta": used_beta, "used_rng": used_rng,
        }  # fmt: skip

    exact = {name: Bound(0) for name in ("grad_sum", "rng", "used_beta", "used_rng")}
    near = {"loss": Bound(1e-4), "beta": Bound(4e-6, 0.05), "velocity": Bound(1e-5, 0.5)}
    return Case(call, lambda state: near | exact)


#: A case of each op, for the test of the comparisons themselves.
CASES: dict[str, Callable[[], Case]] = {
    "sample_mixup": sample_mixup_case,
    "sample_mixup_": sample_mixup_in_place_case,
    "gaussian_mixup": lambda: gaussian_mixup_case((5, 3, 7, 9)),
    "gaussian_mixup, bfloat16": lambda: gaussian_mixup_case((5, 3, 7, 9), dtype=torch.bfloat16),
    "gaussian_mixup, gradient": gaussian_mixup_gradient_case,
    "sprout_loss, K = 10": lambda: sprout_loss_case(10),
    "sprout_loss, K = 1000": lambda: sprout_loss_case(1000),
    "sprout_loss, code, K = 1000": lambda: sprout_loss_case(1000, alpha=1 / 11, scale=11.0),
    "sprout_loss, expected": lambda: sprout_loss_case(1000, beta_grad="expected"),
    "sprout_loss, bfloat16": lambda: sprout_loss_case(1000, dtype=torch.bfloat16),
    "sprout_loss_, K = 10": lambda: sprout_step_case(10),
    "sprout_loss_, K = 1000": lambda: sprout_step_case(1000),
    "meter_step_": meter_step_case,
    "log_gamma": lambda: samples_case("log_gamma", (5, 1000)),
    "dirichlet": lambda: samples_case("dirichlet", (33, 100)),
    "generalized_cross_entropy": lambda: generalized_cross_entropy_case(
        1000, "labels", "mean", torch.float32
    ),
    "generalized_cross_entropy, bfloat16": lambda: generalized_cross_entropy_case(
        1000, "probabilities", "none", torch.bfloat16
    ),
    "pgd_step_": pgd_step_case,
}
