"""Cases of sample_mixup."""

from __future__ import annotations

import torch

from simt.cases.common import assert_near, assert_same, case, cpu


@case(batch=[0, 1, 2, 127, 128, 129, 300], per_sample=[False, True], first_row=[0, 3, 2**40 + 1])
def sample_mixup(simt, batch, per_sample, first_row):
    for offset in (0, 2**32 - 1):
        state = torch.tensor([-5, offset, first_row])
        partner, lam = simt.sample_mixup(batch, state, per_sample=per_sample, seed=offset)
        expected_partner, expected_lam = cpu.sample_mixup(batch, state, 0.2, per_sample)
        assert torch.equal(partner, expected_partner)
        assert_near(lam, expected_lam)


@case(batch=[0, 1, 2, 255, 256, 257, 600], per_sample=[False, True])
def sample_mixup_in_place(simt, batch, per_sample):
    first_row, labels = torch.tensor([3]), torch.randint(10, (batch,))
    ours, theirs = (torch.tensor([-5, 2**63 - 1]) for _ in range(2))
    got = simt.sample_mixup_(ours, first_row, labels, per_sample=per_sample, seed=batch)
    want = cpu.sample_mixup_(theirs, first_row, labels, 0.2, per_sample)
    assert_near(got[1], want[1])
    for i in (0, 2, 3):
        assert_same(got[i], want[i])
    assert_same(ours, theirs)
