"""PhiloxState: the states it returns, resuming, and compiling."""

import pytest
import torch

from sprout_fast import PhiloxState


def test_next_increments_the_offset():
    state = PhiloxState(7, first_row=4)
    assert [state.next().tolist() for _ in range(3)] == [[7, 0, 4], [7, 1, 4], [7, 2, 4]]


def test_resumes_from_its_state_dict():
    state = PhiloxState(7)
    state.next()
    again = PhiloxState(0)
    again.load_state_dict(state.state_dict())
    assert torch.equal(again.next(), state.next())


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, 2**63, 2**64 - 1])
def test_any_seed(seed):
    assert int(PhiloxState(seed).state[0]) % 2**64 == seed % 2**64


def test_compiles():
    state = PhiloxState(3)
    f = torch.compile(state.next, fullgraph=True)
    assert [f().tolist(), f().tolist()] == [[3, 0, 0], [3, 1, 0]]


def test_rejects_negative_first_row():
    with pytest.raises(ValueError, match="first_row must be at least 0, got -1"):
        PhiloxState(0, first_row=-1)
