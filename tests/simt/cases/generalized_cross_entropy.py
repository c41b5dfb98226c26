"""Cases of generalized_cross_entropy and its backward pass."""

from __future__ import annotations

import torch

from simt.cases.common import FLOATS, assert_same, case, compare_scaled, cpu, weights_of
from simt.harness import misaligned


def cross_entropy_inputs(batch, classes, dtype=torch.float32, target=None):
    """Return logits and labels, or probabilities of dtype ``target`` with zeros among them."""
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
    actual = run_cross_entropy(
        simt.generalized_cross_entropy, simt.generalized_cross_entropy_backward, *options
    )
    expected = run_cross_entropy(
        cross_entropy_on_cpu, cpu.generalized_cross_entropy_backward, *options
    )
    if logits.dtype != torch.float64 and target.dtype == torch.float64:
        actual, expected = ([t.float() for t in results] for results in (actual, expected))
    compare_scaled(actual, expected)
    return actual


@case(dtype=FLOATS, target=[None, *FLOATS])
def cross_entropy_dtypes(simt, dtype, target):
    for classes in (10, 35):
        check_cross_entropy(simt, *cross_entropy_inputs(5, classes, dtype, target))


@case(
    classes=[1, 2, 7, 8, 9, 31, 32, 33, 255, 256, 257, 1023, 1024, 1025, 4095, 4096, 4097, 100_000],
    target=[None, torch.float32],
)
def cross_entropy_classes(simt, classes, target):
    """K around the numbers of threads per row, with one packet of 8 each."""
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
    """Rows with an invalid label or no finite logit are NaN; -inf excludes a class."""
    logits, labels = cross_entropy_inputs(8, classes)
    logits[4], logits[5, 2], logits[6, 3] = -torch.inf, torch.nan, torch.inf
    logits[7, 4] = -torch.inf
    labels[7] = 0
    invalid = labels.clone()
    invalid[1], invalid[2], invalid[3] = classes, -1, 2**62
    expected = list(
        run_cross_entropy(
            cross_entropy_on_cpu, cpu.generalized_cross_entropy_backward,
            logits, labels, 0.0, "none",
        )
    )  # fmt: skip
    actual = run_cross_entropy(
        simt.generalized_cross_entropy, simt.generalized_cross_entropy_backward,
        logits, invalid, 0.0, "none",
    )  # fmt: skip
    for i in (0, 2):
        expected[i][1:4] = torch.nan
        compare_scaled([actual[i]], [expected[i]])
    assert actual[0].isfinite().tolist() == [True] + 6 * [False] + [True]
