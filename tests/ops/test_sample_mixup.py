"""sample_mixup against its reference implementation and against Beta(a, a)."""

import pytest
import torch
from scipy import stats

from sprout_fast import reference, sample_mixup


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("batch, first_row", [(1, 0), (2, 0), (7, 5), (300, 123456)])
def test_equals_reference(batch, first_row, per_sample):
    for offset in range(5):
        state = torch.tensor([-3, offset, first_row])
        partner, lam = sample_mixup(batch, state, per_sample=per_sample)
        expected_partner, expected_lam = reference.sample_mixup(batch, state, per_sample=per_sample)
        assert torch.equal(partner, expected_partner)
        # The sigmoid of a difference of logarithms, each with an error of a few ulps.
        torch.testing.assert_close(lam, expected_lam, rtol=3e-5, atol=1e-7)


@pytest.mark.parametrize("a", [0.05, 0.2, 1.0, 5.0])
def test_lam_is_beta(a):
    _, lam = sample_mixup(20_000, torch.tensor([1, 0, 0]), mixup_alpha=a, per_sample=True)
    # Beta(.05, .05) has mass within the spacing of float32 at 1: test the middle of the
    # distribution, and the probability of either end.
    middle = lam[(lam > 0.01) & (lam < 0.99)].double().numpy()
    law = stats.beta(a, a)
    low, high = law.cdf(0.01), law.cdf(0.99)
    assert stats.kstest(middle, lambda x: (law.cdf(x) - low) / (high - low)).pvalue > 1e-4
    ends = (lam <= 0.01).sum().item()
    assert stats.binomtest(ends, len(lam), low).pvalue > 1e-4


def test_partner_is_a_shift_of_the_batch():
    shifts = []
    for offset in range(600):
        partner, lam = sample_mixup(4, torch.tensor([9, offset, 0]))
        shift = int(partner[0])
        assert partner.tolist() == [(i + shift) % 4 for i in range(4)]
        assert lam.shape == (1,)
        shifts.append(shift)
    counts = [shifts.count(r) for r in range(4)]
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 1e-4


def test_ranks():
    """lam per sample is indexed by the rank's rows; one lam per batch is the same on every rank."""
    _, whole = sample_mixup(6, torch.tensor([5, 1, 0]), per_sample=True)
    _, second = sample_mixup(3, torch.tensor([5, 1, 3]), per_sample=True)
    assert torch.equal(whole[3:], second)
    assert torch.equal(*[sample_mixup(3, torch.tensor([5, 1, r]))[1] for r in (0, 3)])


@pytest.mark.parametrize("per_sample", [False, True])
def test_in_place_gives_the_partners_labels_and_advances(per_sample):
    labels, rng = torch.arange(10, 17), torch.tensor([-3, 2**63 - 1])
    drawn = torch.ops.sprout_fast.sample_mixup_(rng, torch.tensor([4]), labels, 0.2, per_sample)
    partner, lam, partner_labels, used_rng = drawn
    assert used_rng.tolist() == [-3, 2**63 - 1, 4] and rng.tolist() == [-3, -(2**63)]
    expected_partner, expected_lam = sample_mixup(7, used_rng, per_sample=per_sample)
    assert torch.equal(partner, expected_partner) and torch.equal(lam, expected_lam)
    assert torch.equal(partner_labels, labels[partner])


def test_opcheck():
    torch.library.opcheck(
        torch.ops.sprout_fast.sample_mixup.default, (5, torch.tensor([1, 2, 3]), 0.2, True)
    )
    arguments = torch.tensor([1, 2]), torch.tensor([3]), torch.arange(5), 0.2, True
    torch.library.opcheck(torch.ops.sprout_fast.sample_mixup_.default, arguments)


@pytest.mark.parametrize(
    "message, arguments, options",
    [
        ("rng_state must be int64 [3]", (4, torch.zeros(3)), {}),
        ("batch_size must be in [0, 2^31), got -1", (-1, torch.tensor([0, 0, 0])), {}),
        (
            "mixup_alpha must be in [1e-30, 1e5], got 0",
            (4, torch.tensor([0, 0, 0])),
            {"mixup_alpha": 0},
        ),
        (
            "mixup_alpha must be in [1e-30, 1e5], got 1e-38",
            (4, torch.tensor([0, 0, 0])),
            {"mixup_alpha": 1e-38},
        ),
        (
            "mixup_alpha must be in [1e-30, 1e5], got nan",
            (4, torch.tensor([0, 0, 0])),
            {"mixup_alpha": float("nan")},
        ),
    ],
)
def test_wrong_arguments_are_named(message, arguments, options):
    with pytest.raises(RuntimeError) as error:
        sample_mixup(*arguments, **options)
    assert "sprout_fast::sample_mixup: " + message in str(error.value)


@pytest.mark.parametrize(
    "message, arguments",
    [
        ("rng must be int64 [2] = (seed, offset)", (torch.zeros(3).long(), [0], [0, 1])),
        ("rng must be contiguous", (torch.zeros(4).long()[::2], [0], [0, 1])),
        ("first_row must be int64 [1]", (torch.zeros(2).long(), [0, 0], [0, 1])),
        ("labels must be int64 [B]", (torch.zeros(2).long(), [0], [0.0, 1.0])),
        ("labels must be int64 [B]", (torch.zeros(2).long(), [0], [[0, 1]])),
    ],
)
def test_wrong_arguments_in_place_are_named(message, arguments):
    rng, *others = arguments
    with pytest.raises(RuntimeError) as error:
        torch.ops.sprout_fast.sample_mixup_(rng, *map(torch.tensor, others), 0.2, False)
    assert "sprout_fast::sample_mixup_: " + message in str(error.value)
    assert not rng.any()
