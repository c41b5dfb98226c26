"""The comparisons of `make gpu-check` accept rounding, and catch what a wrong kernel computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from helpers.gate import CASES, ROUNDING
from helpers.op_inputs import STATE
from torch import Tensor


def rounded(value: Tensor) -> Tensor:
    """Return ``value`` with a random error of one rounding in every element."""
    if not value.is_floating_point():
        return value
    generator = torch.Generator().manual_seed(7)
    noise = 2 * torch.rand(value.shape, generator=generator, dtype=torch.float64) - 1
    return (value.double() * (1 + ROUNDING[value.dtype] * noise)).to(value.dtype)


def shifted(value: Tensor) -> Tensor:
    """Samples that are too large by 3 nats where it counts least."""
    small = value.abs() <= value.abs().double().quantile(0.5).item()
    return torch.where(small, value + 3, value)


def last_row(value: Tensor) -> Tensor:
    """The last two rows are those before them: the tail of the grid does not run."""
    value = value.clone()
    value[-2:] = value[-4:-2]
    return value


def last_column(value: Tensor) -> Tensor:
    """The tail of every row is left at 0."""
    value = value.clone()
    value[..., -1] = 0
    return value


def smallest_zeroed(value: Tensor) -> Tensor:
    """The smaller half of the elements is lost."""
    small = value.abs() <= value.abs().double().quantile(0.5).item()
    return torch.where(small, torch.zeros_like(value), value)


FAULTS = {
    "3 nats": shifted,
    "the last rows": last_row,
    "the last column": last_column,
    "the smaller half zeroed": smallest_zeroed,
    "all zero": torch.zeros_like,
    "sign": lambda value: -value,
    "0.1 % too large": lambda value: value * 1.001,
    "2 % too large": lambda value: value * 1.02,
    "rolled": lambda value: value.roll(1, -1),
    "NaN": lambda value: torch.full_like(value, torch.nan),
}
PLACES = ("the last rows", "the last column", "the smaller half zeroed", "3 nats", "rolled")


def faulty(value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield what a wrong kernel could compute instead of ``value``, where that differs from it."""
    if not value.is_floating_point():
        yield "rolled", value.roll(1, -1)
        return
    for name, plant in FAULTS.items():
        if value.dim() == 0 and name in PLACES:
            continue
        if name == "0.1 % too large" and value.dtype in (torch.float16, torch.bfloat16):
            continue  # below their rounding
        planted = plant(value.double()).to(value.dtype)
        if not torch.equal(planted, value):
            yield name, planted


@pytest.mark.parametrize("name", CASES)
def test_the_gate_accepts_rounding_and_catches_planted_faults(name: str) -> None:
    case = CASES[name]()
    expected, bounds = case.call("cpu", STATE), case.bounds(STATE)
    near = {key: rounded(value) if bounds[key].rtol else value for key, value in expected.items()}
    case.compare(near, expected, STATE)
    caught = 0
    for key, value in expected.items():
        for fault, planted in faulty(value):
            with pytest.raises(AssertionError, match=f"^{key}: "):
                bounds[key].check(key, planted, value)
                pytest.fail(f"{name}: {fault} in {key} was not caught")
            caught += 1
    assert caught >= 3


@pytest.mark.parametrize("name", ["log_gamma", "sprout_loss, K = 10", "dirichlet"])
@pytest.mark.parametrize("flips", [0, 1, 2])
def test_one_of_three_states_may_differ(name: str, flips: int) -> None:
    case = CASES[name]()

    def call(device: str, state: Tensor) -> dict[str, Tensor]:
        results = case.call("cpu", state)
        if device == "other" and state[1] - STATE[1] < flips:
            next(iter(results.values())).view(-1)[3] = 7
        return results

    if flips < 2:
        replace(case, call=call).check("other")
    else:
        with pytest.raises(AssertionError, match="1 of .* elements differ, most element 3"):
            replace(case, call=call).check("other")


def test_the_worst_element_is_named() -> None:
    case = CASES["log_gamma"]()
    expected = case.call("cpu", STATE)
    wrong = expected["samples"].clone()
    wrong[2, 3:9] += 1
    with pytest.raises(
        AssertionError, match=r"samples: 6 of 5000 elements differ, most element 20"
    ):
        case.compare(expected | {"samples": wrong}, expected, STATE)
