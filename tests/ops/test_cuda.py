"""The CUDA ops against the CPU ops on the same draws. Needs a GPU; part of ``make gpu-check``.

The comparisons are those of tests/helpers/gate.py, which tests/ops/test_gate.py tests on the CPU.
Without a GPU, tests/simt/test_simt.py executes the source of the kernels on the CPU instead.
"""

import pytest
import torch
from helpers import gate
from helpers.op_inputs import STATE

from sprout_fast import (
    SproutLoss,
    SproutMixup,
    dirichlet,
    gaussian_mixup,
    generalized_cross_entropy,
    log_gamma,
    pgd_step_,
    sample_mixup,
    sprout_loss,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def close(actual, expected, **tolerances):
    torch.testing.assert_close(actual.cpu(), expected, **tolerances)


@pytest.mark.parametrize("per_sample", [False, True])
def test_sample_mixup(per_sample):
    gate.sample_mixup_case(300, per_sample).check("cuda")


@pytest.mark.parametrize("batch", [1, 256, 257, 1000])
def test_sample_mixup_in_place(batch):
    gate.sample_mixup_in_place_case(batch).check("cuda")


@pytest.mark.parametrize("classes", [1, 10, 129, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_meter_step(classes, dtype):
    gate.meter_step_case(classes, dtype).check("cuda")


@pytest.mark.parametrize("classes", [1, 10, 257, 1000, 100_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_training_step_of_the_loss(classes, dtype):
    gate.sprout_step_case(classes, dtype=dtype).check("cuda")


@pytest.mark.parametrize("shape", [(5, 3, 7, 9), (8, 3, 224, 224), (3, 16, 6, 11), (0, 3, 4, 4)])
@pytest.mark.parametrize("image_dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("noise", ["marginal", "paired"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gaussian_mixup(shape, image_dtype, dtype, noise, layout):
    gate.gaussian_mixup_case(shape, image_dtype, dtype, noise, layout).check("cuda")


def test_gaussian_mixup_gradient():
    gate.gaussian_mixup_gradient_case().check("cuda")


@pytest.mark.parametrize("alpha, scale", [(0.01, 1.0), (1 / 11, 11.0)])
@pytest.mark.parametrize("classes", [1, 2, 10, 255, 256, 257, 1000, 100_000])
@pytest.mark.parametrize("label_mode", ["sample", "mean"])
@pytest.mark.parametrize("beta_grad", ["implicit", "expected"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sprout_loss(alpha, scale, classes, label_mode, beta_grad, dtype):
    gate.sprout_loss_case(
        classes, alpha=alpha, scale=scale, label_mode=label_mode, beta_grad=beta_grad, dtype=dtype
    ).check("cuda")


def test_wrong_values_make_rows_nan():
    logits = torch.randn(4, 5, device="cuda", requires_grad=True)
    labels = torch.tensor([0, 7, -1, 4], device="cuda")
    beta = torch.ones(5, device="cuda")
    loss = sprout_loss(logits, labels, None, None, beta, STATE.cuda(), reduction="none")
    assert loss.isnan().tolist() == [False, True, True, False]
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    assert grad.isnan().all(1).tolist() == [False, True, True, False]
    images = torch.zeros(3, 3, 4, 4, device="cuda")
    partner, lam = torch.tensor([1, 5, 0]).cuda(), torch.tensor([0.5, 0.5, 1.5]).cuda()
    out = gaussian_mixup(images, partner, lam, STATE.cuda())
    assert out.flatten(1).isnan().all(1).tolist() == [False, True, True]


def random_images(batch=8, size=32):
    images = torch.randint(256, (batch, 3, size, size), dtype=torch.uint8)
    return images.contiguous(memory_format=torch.channels_last)


def on_samples(call, a):
    """Return the result of a differentiable op and its gradient at ``a``."""
    leaf = a.clone().requires_grad_()
    out = call(leaf)
    weights = torch.linspace(-1, 1, out.numel(), device=out.device).view_as(out)
    return [out.detach(), *torch.autograd.grad(out, leaf, weights.to(out.dtype))]


def gamma_concentration(rows=33, classes=65, dtype=torch.float32):
    """Return concentrations from 1e-4 to 1e4, and a zero in every row."""
    a = torch.logspace(-4, 4, rows * classes, dtype=dtype).view(rows, classes)
    a[:, 3] = 0
    return a


def op_calls(device, dtype=torch.float32, batch=33, classes=65):
    """Return every op with its gradients, on fixed tensors, as a dict from names to functions."""
    generator = torch.Generator().manual_seed(0)
    state = STATE.to(device)
    images = random_images().to(device)
    partner, lam = (t.to(device) for t in sample_mixup(8, STATE, per_sample=True))
    floating = (images.float() / 255).to(dtype)
    logits = (3 * torch.randn(batch, classes, generator=generator)).to(dtype).to(device)
    labels, partner_labels = torch.randint(classes, (2, batch), generator=generator).to(device)
    row_lam = torch.rand(batch, generator=generator).to(device)
    beta = torch.rand(classes, generator=generator).to(device)
    target = torch.softmax(torch.randn(batch, classes, generator=generator), 1).to(device)
    a = gamma_concentration(batch, classes).to(device)
    x = torch.rand(1000, generator=generator).to(device)
    grad = torch.randn(1000, generator=generator).to(dtype).to(device)

    def loss_with_gradients(**options):
        leaf, b = logits.clone().requires_grad_(), beta.clone().requires_grad_()
        loss = sprout_loss(leaf, labels, partner_labels, row_lam, b, state, **options)
        return [loss.detach(), *torch.autograd.grad(loss, (leaf, b))]

    def cross_entropy_with_gradients():
        leaf, t = logits.clone().requires_grad_(), target.clone().requires_grad_()
        loss = generalized_cross_entropy(leaf, t, label_smoothing=0.1)
        return [loss.detach(), *torch.autograd.grad(loss, (leaf, t))]

    def pgd():
        x_adv = x.clone()
        pgd_step_(x_adv, grad, x, step=0.01, eps=0.02)
        return [x_adv]

    return {
        "sample_mixup": lambda: list(sample_mixup(300, state, per_sample=True)),
        "gaussian_mixup": lambda: [
            gaussian_mixup(images, partner, lam, state, mean=0.4, std=0.2, dtype=dtype)
        ],
        "gaussian_mixup, gradient": lambda: on_samples(
            lambda leaf: gaussian_mixup(leaf, partner, lam, state, noise="paired"), floating
        ),
        "log_gamma": lambda: [log_gamma(a, state)],
        "dirichlet": lambda: on_samples(lambda leaf: dirichlet(leaf, state), a),
        "generalized_cross_entropy": cross_entropy_with_gradients,
        "sprout_loss, implicit": lambda: loss_with_gradients(beta_grad="implicit"),
        "sprout_loss, expected": lambda: loss_with_gradients(beta_grad="expected"),
        "sprout_loss, mean": lambda: loss_with_gradients(label_mode="mean", beta_grad="expected"),
        "pgd_step_": pgd,
    }


OPS = list(op_calls("cpu")) if torch.cuda.is_available() else []


def same(actual, theirs):
    return all(
        torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))
        for a, b in zip(actual, theirs, strict=True)
    )


@pytest.mark.parametrize("op", ["log_gamma", "dirichlet"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (7, 3), (5, 1000), (3, 100_000)])
def test_log_gamma_and_dirichlet(op, shape, dtype):
    gate.samples_case(op, shape, dtype).check("cuda")


@pytest.mark.parametrize("classes", [2, 10, 255, 257, 1000, 100_000])
@pytest.mark.parametrize("target_kind", ["labels", "probabilities"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_generalized_cross_entropy(classes, target_kind, reduction, dtype):
    gate.generalized_cross_entropy_case(classes, target_kind, reduction, dtype).check("cuda")


@pytest.mark.parametrize("layout", ["dense", "strided", "misaligned"])
@pytest.mark.parametrize("grad_dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_pgd_step(layout, grad_dtype):
    gate.pgd_step_case(layout, grad_dtype).check("cuda")


def test_more_elements_than_int32_can_index():
    """The last row equals that of a call on this row only."""
    rows, classes = 22_000, 100_000
    if torch.cuda.mem_get_info()[0] < 3 * 2 * rows * classes:
        pytest.skip("needs 13 GB of free GPU memory")
    logits = torch.zeros(rows, classes, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    labels = torch.zeros(rows, dtype=torch.int64, device="cuda")
    beta = torch.rand(classes, device="cuda")
    loss = sprout_loss(
        logits, labels, None, None, beta, torch.tensor([1, 2, 0]).cuda(), reduction="none",
        beta_grad="none",
    )  # fmt: skip
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    last = torch.zeros(1, classes, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    state = torch.tensor([1, 2, rows - 1]).cuda()
    alone = sprout_loss(
        last, labels[:1], None, None, beta, state, reduction="none", beta_grad="none"
    )
    close(loss[-1:].detach(), alone.detach().cpu(), rtol=1e-5, atol=1e-6)
    close(grad[-1:], torch.autograd.grad(alone.sum(), last)[0].cpu(), rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_is_deterministic(name, dtype):
    call = op_calls("cuda", dtype)[name]
    first = call()
    for _ in range(3):
        assert same(call(), first)


@pytest.mark.parametrize("name", OPS)
def test_other_stream(name):
    """On a stream of the caller, while another is busy, without waiting for either."""
    call = op_calls("cuda")[name]
    expected = call()
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(2)]
    results = []
    for stream in streams:
        with torch.cuda.stream(stream):
            torch.cuda._sleep(100_000_000)  # about 50 ms, which a call that waits would exceed
            results.append(call())
    assert not streams[0].query() or not streams[1].query()
    torch.cuda.synchronize()
    assert all(same(result, expected) for result in results)


@pytest.mark.parametrize("name", OPS)
def test_each_op_captures_into_a_graph(name):
    call = op_calls("cuda")[name]
    expected = call()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        held = call()
    for _ in range(2):
        for tensor in held:
            tensor.zero_()
        graph.replay()
        torch.cuda.synchronize()
        assert same(held, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("name", OPS)
def test_runs_on_the_device_of_the_tensors(name):
    """An op runs on the device of its tensors, whatever the current device is."""
    expected = op_calls("cuda:1")[name]()
    with torch.cuda.device(0):
        actual = op_calls("cuda:1")[name]()
        assert torch.cuda.current_device() == 0
    assert all(t.device.index == 1 for t in actual)
    assert same(actual, expected)


def test_mixed_devices_raise():
    images = torch.zeros(2, 3, 4, 4, device="cuda")
    with pytest.raises(RuntimeError, match="gaussian_mixup: rng_state"):
        gaussian_mixup(images, None, None, STATE)
    logits = torch.zeros(2, 5, device="cuda")
    labels = torch.zeros(2, dtype=torch.int64, device="cuda")
    with pytest.raises(RuntimeError, match="sprout_loss: beta"):
        sprout_loss(logits, labels, None, None, torch.ones(5), STATE.cuda())


def test_compiles():
    """SproutMixup and SproutLoss compute the same values under torch.compile."""
    state = STATE.cuda()
    images, labels = random_images().cuda(), torch.arange(8, device="cuda")
    weight = torch.randn(3 * 32 * 32, 10, device="cuda")
    beta = torch.rand(10, device="cuda")

    def step(images, weight, beta):
        partner, lam = sample_mixup(8, state)
        batch = gaussian_mixup(images, partner, lam, state)
        return sprout_loss(
            batch.flatten(1) @ weight, labels, labels[partner], lam.expand(8), beta, state
        )

    results = []
    for run in (step, torch.compile(step, fullgraph=True)):
        w, b = weight.clone().requires_grad_(), beta.clone().requires_grad_()
        loss = run(images, w, b)
        results.append([loss.detach(), *torch.autograd.grad(loss, (w, b))])
    for actual, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    """An autocast model gives a float32 loss and finite gradients in the dtype of the weights."""
    torch.manual_seed(0)
    mixer, loss_fn = SproutMixup(device="cuda"), SproutLoss(10, device="cuda")
    model = torch.nn.Linear(3 * 32 * 32, 10, device="cuda")
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
    batch, target = mixer(random_images().cuda(), torch.arange(8, device="cuda"))
    with torch.autocast("cuda", dtype):
        logits = model(batch.flatten(1))
        loss = loss_fn(logits, target)
    assert logits.dtype == dtype and loss.dtype == torch.float32
    scaler.scale(loss).backward()
    assert model.weight.grad.dtype == torch.float32
    assert model.weight.grad.isfinite().all() and model.weight.grad.any()


def test_captures_into_a_graph():
    """SproutMixup and SproutLoss in a CUDA graph: replays draw new numbers and update beta."""
    mixer, loss_fn = SproutMixup(device="cuda"), SproutLoss(10, device="cuda", alpha=0.3)
    images = torch.randint(256, (8, 3, 8, 8), dtype=torch.uint8, device="cuda")
    labels = torch.arange(8, device="cuda")
    weight = torch.randn(192, 10, device="cuda")

    def step():
        batch, target = mixer(images, labels)
        return loss_fn(batch.flatten(1) @ weight, target)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    seen = []
    for _ in range(3):
        graph.replay()
        seen.append((loss.item(), loss_fn.beta.sum().item()))
    assert len(set(seen)) == 3


def test_attacks_stay_in_their_ball_and_evaluation_runs():
    from sprout_fast import evaluate
    from sprout_fast.attacks import ATTACKS, Attack
    from sprout_fast.attacks.balls import BALLS

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5)).cuda()
    images, labels = torch.rand(10, 3, 8, 8, device="cuda"), torch.arange(10, device="cuda") % 5
    for name in ATTACKS:
        if name in ("autoattack", "transfer"):  # needs another package, or another model
            continue
        norm = "l2" if name == "cw_l2" else "linf"
        attacked = Attack(name, model, eps=0.1)(images, labels)
        assert attacked.device == images.device
        assert (BALLS[norm].distance(attacked, images) <= 0.1 * (1 + 1e-6)).all(), name
    results = evaluate(model, images.cpu(), labels.cpu(), protocol="all", eps=0.1, scale=0.05)
    assert results.robust_accuracy <= results.clean_accuracy
