"""Cases of sample_mixup."""

from __future__ import annotations

import torch

from simt.cases.common import assert_near, case, cpu


@case(batch=[0, 1, 2, 127, 128, 129, 300], per_sample=[False, True], first_row=[0, 3, 2**40 + 1])
def sample_mixup(simt, batch, per_sample, first_row):
    for offset in (0, 2**32 - 1):
        state = torch.tensor([-5, offset, first_row])
        partner, lam = simt.sample_mixup(batch, state, per_sample=per_sample, seed=offset)
        expected_partner, expected_lam = cpu.sample_mixup(batch, state, 0.2, per_sample)
        assert torch.equal(partner, expected_partner)
        assert_near(lam, expected_lam)
