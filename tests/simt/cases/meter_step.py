"""Cases of meter_step_."""

from __future__ import annotations

import torch

from simt.cases.common import FLOATS, assert_same, case, cpu


def meter_inputs(batch, classes, dtype=torch.float32):
    """Return logits with equal largest ones, infinities and NaNs, and a target."""
    g = torch.Generator().manual_seed(batch + 7919 * classes)
    logits = torch.randint(-3, 4, (batch, classes), generator=g).to(dtype)
    if batch > 4:
        logits[1], logits[2, -1], logits[3, classes // 2] = -torch.inf, torch.nan, torch.inf
    labels = torch.randint(min(classes, 3), (2, batch), generator=g)
    return logits, labels[0], labels[1], torch.rand(batch, generator=g)


def meter_sums():
    return torch.tensor(1.5, dtype=torch.float64), torch.tensor(7), torch.tensor(-1)


def check_meter(simt, loss, logits, *target, seed=0):
    ours, theirs = meter_sums(), meter_sums()
    simt.meter_step_(*ours, loss, logits, *target, step=11, seed=seed)
    cpu.meter_step_(*theirs, loss, logits, *target, 11)
    for a, b in zip(ours, theirs, strict=True):
        assert_same(a, b)
    return ours


@case(batch=[0, 1, 7, 8, 9, 65], classes=[1, 2, 10, 31, 129, 1000, 1001], dtype=FLOATS)
def meter(simt, batch, classes, dtype):
    logits, labels, partner_labels, lam = meter_inputs(batch, classes, dtype)
    check_meter(simt, torch.tensor(0.7), logits, labels, None, None)
    check_meter(simt, torch.tensor(0.7).double(), logits, labels, partner_labels, lam)
    if batch:
        check_meter(simt, torch.tensor(0.7), logits, labels, partner_labels, lam[:1])


@case(loss=[torch.nan, torch.inf])
def meter_of_a_bad_loss(simt, loss):
    logits, labels, partner_labels, lam = meter_inputs(9, 10)
    labels[0], lam[1] = 2**62, torch.nan  # count as no hit
    _, _, bad_step = check_meter(simt, torch.tensor(loss), logits, labels, partner_labels, lam)
    assert bad_step == 11
