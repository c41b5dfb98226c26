"""draw_mixup against its reference twin and against Beta(a, a)."""

import pytest
import torch
from scipy import stats

from sprout_fast import draw_mixup, reference


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("batch, first_row", [(1, 0), (2, 0), (7, 5), (300, 123456)])
def test_equals_reference(batch, first_row, per_sample):
    for offset in range(5):
        state = torch.tensor([-3, offset, first_row])
        partner, lam = draw_mixup(state, batch, per_sample=per_sample)
        expected_partner, expected_lam = reference.draw_mixup(state, batch, per_sample=per_sample)
        assert torch.equal(partner, expected_partner)
        # sigmoid of a difference of logs, each a few ulps off.
        torch.testing.assert_close(lam, expected_lam, rtol=3e-5, atol=1e-7)


@pytest.mark.parametrize("a", [0.05, 0.2, 1.0, 5.0])
def test_lam_is_beta(a):
    _, lam = draw_mixup(torch.tensor([1, 0, 0]), 20_000, a=a, per_sample=True)
    # Beta(.05, .05) has mass within float32's spacing of 1, so the test is of the middle and of the
    # share of either end.
    middle = lam[(lam > 0.01) & (lam < 0.99)].double().numpy()
    law = stats.beta(a, a)
    low, high = law.cdf(0.01), law.cdf(0.99)
    assert stats.kstest(middle, lambda x: (law.cdf(x) - low) / (high - low)).pvalue > 1e-4
    ends = (lam <= 0.01).sum().item()
    assert stats.binomtest(ends, len(lam), low).pvalue > 1e-4


def test_partner_is_a_shift_of_the_batch():
    shifts = []
    for offset in range(600):
        partner, lam = draw_mixup(torch.tensor([9, offset, 0]), 4)
        shift = int(partner[0])
        assert partner.tolist() == [(i + shift) % 4 for i in range(4)]
        assert lam.shape == (1,)
        shifts.append(shift)
    counts = [shifts.count(r) for r in range(4)]
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 1e-4


def test_ranks():
    """lam of each sample counts from the rank's rows; one lam for the batch is every rank's."""
    _, whole = draw_mixup(torch.tensor([5, 1, 0]), 6, per_sample=True)
    _, second = draw_mixup(torch.tensor([5, 1, 3]), 3, per_sample=True)
    assert torch.equal(whole[3:], second)
    assert torch.equal(*[draw_mixup(torch.tensor([5, 1, r]), 3)[1] for r in (0, 3)])


def test_opcheck():
    torch.library.opcheck(
        torch.ops.sprout_fast.draw_mixup.default, (torch.tensor([1, 2, 3]), 5, 0.2, True)
    )


@pytest.mark.parametrize(
    "message, arguments, options",
    [
        ("rng_state must be int64 [3]", (torch.zeros(3), 4), {}),
        ("batch_size must be in [0, 2^31), got -1", (torch.tensor([0, 0, 0]), -1), {}),
        ("a must be in [1e-30, 1e5], got 0", (torch.tensor([0, 0, 0]), 4), {"a": 0}),
        ("a must be in [1e-30, 1e5], got 1e-38", (torch.tensor([0, 0, 0]), 4), {"a": 1e-38}),
        ("a must be in [1e-30, 1e5], got nan", (torch.tensor([0, 0, 0]), 4), {"a": float("nan")}),
    ],
)
def test_wrong_arguments_are_named(message, arguments, options):
    with pytest.raises(RuntimeError) as error:
        draw_mixup(*arguments, **options)
    assert "sprout_fast::draw_mixup: " + message in str(error.value)
