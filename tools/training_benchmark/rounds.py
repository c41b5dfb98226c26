"""Time contestants in turns, in rounds of rotating order, as often as the budget allows.

In a round every contestant makes a few steps, and ratios are taken within a round, so that changes
in clock speed and machine load affect all contestants alike.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from training_benchmark.contestants import Contestant
from training_benchmark.trainee import Batches

# Minimum seconds of a turn, to make the overhead of clock and barrier negligible.
_TURN = 0.25


@dataclass
class Timings:
    """Seconds per step, by row and round (counted from 0); slow rows skip rounds."""

    steps: int  # steps per turn; each time is their mean
    seconds: dict[str, dict[int, float]] = field(default_factory=dict)

    def of(self, row: str) -> list[float]:
        """Return all times of a row."""
        return list(self.seconds[row].values())

    def ratios(self, row: str, base: str) -> list[float]:
        """Return a row's time divided by that of ``base`` for each round that has both."""
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
    progress: Callable[[str], object],
) -> Timings:
    """Time the contestants' steps, which include fetching the batch.

    Args:
        contestants: the rows.
        batches: an infinite iterator that all contestants share.
        device: synchronized before and after each turn.
        base: the row that others are compared with; it is timed in every round.
        rounds: maximum number of rounds.
        steps: steps per turn; None for as many as ``base`` makes in a quarter of a second.
        budget: seconds in total, including warm-up. Every contestant's first turn is made even if
            it exceeds the budget.
        progress: called with a line of text from time to time.
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
        progress(f"warming up {contestant.name}")
        cost[contestant.name] = turn(contestant, 1)
        if cost[contestant.name] < 1:  # one-time costs are negligible in slower steps
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
        progress(f"round {number + 1} of {most}")
        first = number % len(contestants)
        for contestant in [*contestants[first:], *contestants[:first]]:
            name = contestant.name
            found = timings.seconds[name]
            # If steps have become slower, the remaining time is reserved for ``base``.
            to_come = 0.0 if number in timings.seconds[base] else cost[base]
            late = time.perf_counter() + cost[name] + to_come > deadline
            if name == base or (is_due(number, counts[name], most) and not (found and late)):
                found[number] = turn(contestant, steps)
    return timings


def plan(cost: Mapping[str, float], most: int, seconds: float) -> dict[str, int]:
    """Return each contestant's number of rounds, from 1 to ``most``.

    Contestants with fewer rounds than ``most`` get about equal time.

    Args:
        cost: seconds per turn, by name.
        most: maximum number of rounds.
        seconds: total time available.

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
    """Return whether a contestant with ``count`` of ``most`` rounds takes part in round ``number``.

    Its rounds are evenly spaced, starting with the first.

    >>> [is_due(number, 2, 5) for number in range(5)]
    [True, False, False, True, False]
    """
    return number == 0 or number * count // most > (number - 1) * count // most


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all launched work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
