"""The CUDA ops against the CPU ops on the same draws. Needs a GPU: `make gpu-check` runs it there.

The kernels' integer streams are those of the CPU, and floats differ by ulps of the transcendental
functions, which the tolerances allow for. No machine that builds this project has a GPU, so what
passes for this file elsewhere is tests/test_simt.py, which executes the kernels' source on the CPU.
"""

import pytest
import torch

from sprout_fast import SproutLoss, SproutMixup, draw_mixup, gaussian_mixup, sprout_loss

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
STATE = torch.tensor([0x1234_5678_9ABC_DEF0, 7, 3])


def close(ours, theirs, **tolerances):
    torch.testing.assert_close(ours.cpu(), theirs, **tolerances)


@pytest.mark.parametrize("per_sample", [False, True])
def test_draw_mixup(per_sample):
    partner, lam = draw_mixup(STATE.cuda(), 300, per_sample=per_sample)
    expected_partner, expected_lam = draw_mixup(STATE, 300, per_sample=per_sample)
    assert torch.equal(partner.cpu(), expected_partner)
    close(lam, expected_lam, rtol=3e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 3, 7, 9), (8, 3, 224, 224), (3, 16, 6, 11), (0, 3, 4, 4)])
@pytest.mark.parametrize("image_dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("noise", ["marginal", "paired"])
def test_gaussian_mixup(shape, image_dtype, dtype, noise):
    images = torch.randint(256, shape, dtype=torch.uint8)
    if image_dtype != torch.uint8:
        images = (images / 255).to(image_dtype)
    partner, lam = draw_mixup(STATE, shape[0], per_sample=True)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = images.contiguous(memory_format=layout)
        options = dict(mean=0.4, std=0.2, noise=noise, dtype=dtype)
        expected = gaussian_mixup(x, partner, lam, STATE, **options)
        ours = gaussian_mixup(x.cuda(), partner.cuda(), lam.cuda(), STATE.cuda(), **options)
        rounding = {torch.float32: 4e-6, torch.float16: 2**-9, torch.bfloat16: 2**-6}[dtype]
        close(ours, expected, rtol=rounding, atol=rounding)


def test_gaussian_mixup_gradient():
    x = torch.rand(6, 3, 16, 16)
    partner, lam = torch.tensor([1, 1, 1, 3, 0, 2]), torch.rand(6)
    weights = torch.randn(6, 3, 16, 16)
    gradients = []
    for device in ("cpu", "cuda"):
        leaf = x.to(device).requires_grad_()
        out = gaussian_mixup(leaf, partner.to(device), lam.to(device), STATE.to(device))
        (out * weights.to(device)).sum().backward()
        gradients.append(leaf.grad.cpu())
    close(*gradients, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("alpha, scale", [(0.01, 1.0), (1 / 11, 11.0)])
@pytest.mark.parametrize("classes", [1, 10, 257, 1000, 100_000])
@pytest.mark.parametrize("labels_from", ["dirichlet", "mean"])
@pytest.mark.parametrize("beta_grad", ["implicit", "expected"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sprout_loss(alpha, scale, classes, labels_from, beta_grad, dtype):
    torch.manual_seed(0)
    batch = 33 if classes <= 1000 else 5
    logits = (3 * torch.randn(batch, classes)).to(dtype)
    labels, partner_labels = torch.randint(classes, (2, batch))
    lam, beta = torch.rand(batch), torch.rand(classes)
    results = []
    for device in ("cpu", "cuda"):
        x = logits.to(device).requires_grad_()
        b = beta.to(device).requires_grad_()
        loss = sprout_loss(
            x, labels.to(device), partner_labels.to(device), lam.to(device), b, STATE.to(device),
            alpha=alpha, scale=scale, labels_from=labels_from, beta_grad=beta_grad,
        )  # fmt: skip
        results.append([loss.detach(), *torch.autograd.grad(loss, (x, b))])
    for ours, theirs in zip(results[1], results[0], strict=True):
        size = theirs.abs().max().float().item()
        close(ours, theirs, rtol=2e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-4 * size)


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


def test_same_bits_again():
    logits = torch.randn(300, 1000, device="cuda")
    labels = torch.randint(1000, (300,), device="cuda")
    beta = torch.rand(1000, device="cuda")
    runs = []
    for _ in range(3):
        x, b = logits.clone().requires_grad_(), beta.clone().requires_grad_()
        loss = sprout_loss(x, labels, None, None, b, STATE.cuda())
        runs.append([loss.detach(), *torch.autograd.grad(loss, (x, b))])
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


def test_captures_into_a_graph():
    """Mixer and loss in a CUDA graph: each replay draws new numbers and moves beta."""
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
