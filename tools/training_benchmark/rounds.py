"""The clock: contestants take turns, in rounds whose order rotates, as often as the time allows.

A round is a few steps of everybody, so that a drifting clock, or others' work on the machine, meets
all of them, and ratios are taken within it.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from training_benchmark.contestants import Contestant
from training_benchmark.trainee import Batches

# Seconds that a turn lasts at least: the share of a clock or a barrier is then small.
_TURN = 0.25


@dataclass
class Timings:
    """Seconds a step, by row and round (from 0). Slow rows are not in every round."""

    steps: int  # of a turn, whose mean one number is
    seconds: dict[str, dict[int, float]] = field(default_factory=dict)

    def of(self, row: str) -> list[float]:
        """All of a row's."""
        return list(self.seconds[row].values())

    def ratios(self, row: str, base: str) -> list[float]:
        """Of each round that has both, the row's time over ``base``'s."""
        above, below = self.seconds[row], self.seconds[base]
        return [above[number] / below[number] for number in above.keys() & below.keys()]


def measure(
    contestants: Sequence[Contestant],
    batches: Batches,
    device: torch.device,
    *,
    base: str,
    rounds: int,
    steps: int | None = None,
    budget: float,
    say: Callable[[str], None],
) -> Timings:
    """Time the contestants' steps; fetching the batch is part of a step.

    Args:
        batches: shared by all, without end.
        base: the row that others are compared with: it is in every round.
        rounds: at most so many.
        steps: of a turn; None takes as many as ``base`` makes in a quarter of a second.
        budget: seconds for all, warm-up included. Everybody's first round is over it if need be.
        say: gets a line now and then.
    """

    def turn(contestant: Contestant, steps: int) -> float:
        synchronize(device)
        start = time.perf_counter()
        for _ in range(steps):
            contestant.step(*next(batches))
        synchronize(device)
        return (time.perf_counter() - start) / steps

    deadline = time.perf_counter() + budget
    cost = {}
    for contestant in contestants:
        say(f"warming up {contestant.name}")
        cost[contestant.name] = turn(contestant, 1)
        if cost[contestant.name] < 1:  # else what is done once does not count
            cost[contestant.name] = turn(contestant, 1)
    if steps is None:
        steps = max(1, round(_TURN / cost[base]))
    cost = {name: steps * seconds for name, seconds in cost.items()}
    counts = plan(cost, rounds, deadline - time.perf_counter())
    counts[base] = most = max(counts.values())
    timings = Timings(steps, {contestant.name: {} for contestant in contestants})
    for number in range(most):
        if number and time.perf_counter() + cost[base] > deadline:
            break
        say(f"round {number + 1} of {most}")
        first = number % len(contestants)
        for contestant in [*contestants[first:], *contestants[:first]]:
            name = contestant.name
            found = timings.seconds[name]
            # Steps may take longer than they did at first; what is left is the base's, then.
            to_come = 0.0 if number in timings.seconds[base] else cost[base]
            late = time.perf_counter() + cost[name] + to_come > deadline
            if name == base or (is_due(number, counts[name], most) and not (found and late)):
                found[number] = turn(contestant, steps)
    return timings


def plan(cost: Mapping[str, float], most: int, seconds: float) -> dict[str, int]:
    """How many rounds each is in: at least 1, at most ``most``, about equal times where fewer.

    Args:
        cost: seconds of a turn.
        seconds: for all.

    >>> plan({"natural": 1.0, "trades": 10.0}, 8, 30.0)
    {'natural': 8, 'trades': 2}
    """
    counts = dict.fromkeys(cost, 1)
    left = seconds - sum(cost.values())
    waiting = [(one, name) for name, one in cost.items()]
    heapq.heapify(waiting)
    while waiting:
        spent, name = heapq.heappop(waiting)
        if counts[name] < most and cost[name] <= left:
            counts[name] += 1
            left -= cost[name]
            heapq.heappush(waiting, (spent + cost[name], name))
    return counts


def is_due(number: int, count: int, most: int) -> bool:
    """Whether who is in ``count`` of ``most`` rounds is in round ``number``: spread, the first in.

    >>> [is_due(number, 2, 5) for number in range(5)]
    [True, False, False, True, False]
    """
    return number == 0 or number * count // most > (number - 1) * count // most


def synchronize(device: torch.device) -> None:
    """Wait for what has been launched."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
