"""meter_step_ against its reference implementation, and its argument checks."""

import pytest
import torch

from sprout_fast import meter_step_, reference

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def sums():
    return torch.tensor(1.5, dtype=torch.float64), torch.tensor(7), torch.tensor(-1)


def batch_of(rows, classes, dtype=torch.float32):
    g = torch.Generator().manual_seed(rows * classes)
    logits = torch.randint(-3, 4, (rows, classes), generator=g).to(dtype)  # with equal ones
    labels = torch.randint(classes, (2, rows), generator=g)
    return logits, labels[0], labels[1], torch.rand(rows, generator=g)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, classes", [(1, 1), (5, 2), (64, 10), (7, 1000), (300, 65)])
def test_equals_reference(rows, classes, dtype):
    logits, labels, partner_labels, lam = batch_of(rows, classes, dtype)
    for target in ((labels,), (labels, partner_labels, lam), (labels, partner_labels, lam[:1])):
        actual, expected = sums(), sums()
        for loss in (torch.tensor(0.7), torch.tensor(0.3, dtype=torch.float64)):
            meter_step_(*actual, loss, logits.t().contiguous().t(), *target, step=3)
            reference.meter_step_(*expected, loss, logits, *target, step=3)
        assert actual[0] == expected[0] and actual[2] == -1
        assert abs(int(actual[1]) - int(expected[1])) <= rows  # roundings of lam's products
        if len(target) == 1:
            assert actual[1] == expected[1]


def test_odd_logits_and_labels():
    logits, labels, *_ = batch_of(6, 40)
    logits[0], logits[1, 7], logits[2, 9], logits[2, 3] = -torch.inf, torch.nan, torch.inf, 1e38
    labels[:4] = torch.tensor([0, 7, 9, 2**62])
    actual, expected = sums(), sums()
    meter_step_(*actual, torch.tensor(1.0), logits, labels)
    reference.meter_step_(*expected, torch.tensor(1.0), logits, labels)
    assert actual[1] == expected[1] and (int(actual[1]) - 7) % 2**32 == 0
    assert int(actual[1]) >= 3 * 2**32


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_keeps_the_first_bad_step(bad):
    logits, labels, *_ = batch_of(4, 3)
    into = sums()
    for step, loss in enumerate((0.5, bad, 0.5, bad), start=1):
        meter_step_(*into, torch.tensor(loss), logits, labels, step=step)
    assert into[2] == 2 and not into[0].isfinite()


def test_an_empty_batch_adds_nothing():
    into = sums()
    meter_step_(*into, torch.tensor(1.0), torch.empty(0, 3), torch.empty(0, dtype=torch.int64))
    assert [t.item() for t in into] == [1.5, 7, -1]


def test_opcheck():
    logits, *target = batch_of(4, 3)
    arguments = *sums(), torch.tensor(0.5), logits, *target, 9
    torch.library.opcheck(torch.ops.sprout_fast.meter_step_.default, arguments)


@pytest.mark.parametrize(
    "message, changed",
    [
        ("loss_sum must be a float64 scalar", {0: torch.tensor(0.0)}),
        ("hits must be an int64 scalar", {1: torch.zeros(1).long()}),
        ("bad_step must be an int64 scalar", {2: torch.tensor(0).int()}),
        ("loss must be a float32 or float64 scalar", {3: torch.tensor(0.5).half()}),
        ("loss must be a float32 or float64 scalar", {3: torch.zeros(4)}),
        ("logits must be float64, float32, bfloat16 or float16 [B, K]", {4: torch.zeros(4)}),
        ("labels must be int64 [B]", {5: torch.zeros(3).long()}),
        ("partner_labels must be int64 [B]", {6: torch.zeros(3).long()}),
        ("partner_labels and lam must be given together", {6: None}),
        ("lam must be float32 [4] or [1]", {7: torch.zeros(2)}),
    ],
)
def test_wrong_arguments_are_named(message, changed):
    arguments = [*sums(), torch.tensor(0.5), *batch_of(4, 3)]
    for place, value in changed.items():
        arguments[place] = value
    with pytest.raises(RuntimeError) as error:
        meter_step_(*arguments)
    assert "sprout_fast::meter_step_: " + message in str(error.value)
