"""Time contestants in turns, in rounds of rotating order, as often as the budget allows.

In a round every contestant makes a few steps, and ratios are taken within a round, so that changes
in clock speed and machine load affect all contestants alike.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from sprout_fast.distributed import World
from training_benchmark.contestants import Contestant
from training_benchmark.trainee import Batches

# Minimum seconds of a turn, to make the overhead of clock and barrier negligible.
_TURN = 0.25


class Clock:
    """Seconds on the first process's clock, read when the devices of all processes are idle.

    All processes get the same time, so they decide alike how often they repeat what they do
    together.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        # On the CPU, beside what the devices exchange.
        self._group: Any = dist.new_group(backend="gloo") if world.size > 1 else None

    def __call__(self) -> float:
        synchronize(self._world.device)
        if self._group is None:
            return time.perf_counter()
        dist.barrier(self._group)
        now = torch.tensor(time.perf_counter(), dtype=torch.float64)
        dist.broadcast(now, 0, self._group)
        return now.item()


@dataclass
class Timings:
    """Seconds per step, by row and round (counted from 0); slow rows skip rounds.

    ``left_out`` gives seconds per step, estimated or measured once, of rows without a round.
    """

    steps: int  # steps per turn; each time is their mean
    seconds: dict[str, dict[int, float]] = field(default_factory=dict)
    left_out: dict[str, float] = field(default_factory=dict)

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
    clock: Callable[[], float],
    *,
    base: str,
    rounds: int,
    steps: int | None = None,
    budget: float,
    every: bool = False,
    progress: Callable[[str], object],
) -> Timings:
    """Time the contestants' steps, which include fetching the batch.

    Args:
        contestants: the rows.
        batches: an infinite iterator that all contestants share.
        clock: seconds, with all devices idle: a :class:`Clock`.
        base: the row that others are compared with; it is timed in every round.
        rounds: maximum number of rounds.
        steps: steps per turn; None for as many as ``base`` makes in a quarter of a second.
        budget: seconds in total, including warm-up. Of the rows, the most expensive ones are left
            out; of ``base``, one step is made in any case, the first one if there is no time for
            more.
        every: time every row at least once, even if that exceeds ``budget``.
        progress: called with a line of text from time to time, first with an estimate.
    """

    def turn(contestant: Contestant, steps: int) -> float:
        start = clock()
        for _ in range(steps):
            contestant.step(*next(batches))
        return (clock() - start) / steps

    def warmed_up(contestant: Contestant) -> float:
        progress(f"warming up {contestant.name}")
        cost = turn(contestant, contestant.warmup)
        # One-time costs are negligible in slower steps; but all guesses are multiples of base's.
        again = cost < (0.1 * budget if contestant.name == base else 1)
        return turn(contestant, 1) if again else cost

    def selected(costs: Mapping[str, float], first: Mapping[str, float]) -> dict[str, float]:
        """Return the costs of the rows for which there is time, in seconds per step.

        A row needs ``first`` seconds and a turn.
        """
        needs = {name: first[name] + timings.steps * one for name, one in costs.items()}
        late, kept = clock() + sum(needs.values()) - deadline, dict(costs)
        for name in sorted(costs, key=lambda name: costs[name], reverse=True):
            if late > 0 and name != base and not every:
                late -= needs[name]
                timings.left_out[name] = kept.pop(name)
        return kept

    deadline = clock() + budget
    rows = {contestant.name: contestant for contestant in contestants}
    cost = {base: warmed_up(rows[base])}
    steps = steps or max(1, round(_TURN / cost[base]))
    timings = Timings(steps, {name: {} for name in rows})
    guess = {name: row.cost * cost[base] for name, row in rows.items()}
    first = {name: (rows[name].warmup + (one < 1)) * one for name, one in guess.items()}
    first[base] = 0.0
    kept = selected(guess, first)
    needs = sum(first[name] + steps * guess[name] for name in kept)
    progress(
        f"estimate: {cost[base]:.3g} s per {base} step, {needs:.0f} s for one round of"
        f" {len(kept)} of {len(rows)} rows, of {max(0.0, deadline - clock()):.0f} s left"
        + (f"; no time for {', '.join(timings.left_out)}" if timings.left_out else "")
    )
    if clock() + steps * cost[base] > deadline and not every:
        timings.left_out |= {name: one for name, one in guess.items() if name != base}
        timings.seconds = {base: {0: cost[base]}}
        return timings
    for name in kept:
        late = clock() + first[name] + steps * cost[base] > deadline
        if name != base and late and not every:
            timings.left_out[name] = guess[name]
        elif name != base:
            cost[name] = warmed_up(rows[name])
    cost = selected(cost, dict.fromkeys(cost, 0.0))
    cost = {name: steps * seconds for name, seconds in cost.items()}
    counts = plan(cost, rounds, deadline - clock())
    counts[base] = most = max(counts.values())
    contestants = [contestant for contestant in contestants if contestant.name in cost]
    for number in range(most):
        if number and clock() + cost[base] > deadline:
            break
        progress(f"round {number + 1} of {most}")
        shift = number % len(contestants)
        for contestant in [*contestants[shift:], *contestants[:shift]]:
            name = contestant.name
            found = timings.seconds[name]
            # If steps have become slower, the remaining time is reserved for ``base``.
            to_come = 0.0 if number in timings.seconds[base] else cost[base]
            late = clock() + cost[name] + to_come > deadline and (bool(found) or not every)
            if name == base or (is_due(number, counts[name], most) and not late):
                found[number] = turn(contestant, steps)
    for name in [name for name, found in timings.seconds.items() if not found]:
        timings.left_out.setdefault(name, cost.get(name, 0.0) / steps)
        del timings.seconds[name]
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
