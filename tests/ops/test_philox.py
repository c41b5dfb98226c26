"""The integer stream: published test vectors of Philox4x32-10, and how the ops address it."""

import pytest
import torch

from sprout_fast import reference
from sprout_fast.reference.philox import philox4x32_10

# From the distribution of its authors (Random123, kat_vectors): counter, key, result.
KNOWN_ANSWERS = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize("counter, key, expected", KNOWN_ANSWERS)
def test_known_answers(counter, key, expected):
    words = philox4x32_10([torch.tensor(c) for c in counter], tuple(key))
    assert [int(w) for w in words] == expected


def test_counter_layout():
    """The counter is (element low, element high | stream << 24, draw, offset), the key the seed."""
    seed, offset, element = 0x299F31D0_A4093822, 0x03707344, (0x85A308 << 32) | 0x243F6A88
    state = torch.tensor([seed, offset, 0])
    words = reference.philox_words(state, 0x12, torch.tensor(element), draw=0x13198A2E)
    expected = philox4x32_10(
        [torch.tensor(c) for c in (0x243F6A88, 0x1285A308, 0x13198A2E, 0x03707344)],
        (0xA4093822, 0x299F31D0),
    )
    assert words.tolist() == [int(w) for w in expected]
