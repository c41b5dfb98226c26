"""Clean and PGD-10 accuracy at the end of a run, on few images and saying on how few."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sprout_fast.attacks import Attack
from sprout_fast.evaluation.accuracy import MeasuredAccuracy, measure_accuracy
from sprout_fast.models import evaluation_mode

STEPS = 10
EPS, STEP_SIZE = 8 / 255, 2 / 255

# Floating-point operations that the attack may cost on a CPU: about half a minute on two cores.
_CPU_BUDGET = 1.2e12
_MOST, _FEWEST = 200, 10


def default_images(model: nn.Module, image_size: int, device: torch.device) -> int:
    """How many validation images to attack where the user did not say: 200, on a CPU fewer for a
    model that is slow there. A function of the model and the image size, not of the machine."""
    if device.type == "cuda":
        return _MOST
    image = torch.zeros(1, 3, image_size, image_size)
    with FlopCounterMode(display=False) as counter, evaluation_mode(model), torch.no_grad():
        model(image)
    # A step is a forward pass and a backward pass to the image alone, which costs as much again.
    cost = counter.get_total_flops() * (2 * STEPS + 2)
    return int(min(_MOST, max(_FEWEST, _CPU_BUDGET // max(cost, 1))))


class Spread:
    """``count`` images spread evenly over a loader's, since validation sets are sorted by class."""

    def __init__(self, loader: Iterable[tuple[Tensor, Tensor]], total: int, count: int) -> None:
        self._loader, self._total, self._count = loader, total, min(total, count)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        seen = 0
        for images, labels in self._loader:
            index = torch.arange(seen, seen + len(labels))
            seen += len(labels)
            chosen = (index + 1) * self._count // self._total > index * self._count // self._total
            if chosen.any():
                rows = chosen.nonzero().flatten().to(labels.device)
                yield images[rows], labels[rows]


def evaluate_final(
    model: nn.Module, loader: Iterable, *, total: int, count: int, device: torch.device, seed: int
) -> MeasuredAccuracy:
    """Clean and PGD-10 accuracy of ``model`` ([0,1] images) on ``count`` of ``total`` images."""
    attack = Attack("pgd", model, seed=seed, eps=EPS, step_size=STEP_SIZE, steps=STEPS)
    return measure_accuracy(model, Spread(loader, total, count), device=device, attack=attack)


def describe_final(result: MeasuredAccuracy, total: int) -> list[str]:
    """Lines for the log, with Wilson's interval and how few images they rest on."""
    used = result.clean.total
    rest = (
        f"on {used} of the {total} validation images only"
        if used < total
        else f"on all {total} validation images"
    )
    return [
        f"final clean accuracy  {_percent(result.clean)}",
        f"final PGD-{STEPS} accuracy {_percent(result.attacked)}"
        f"  [l-inf eps 8/255, step 2/255, random start]",
        f"both {rest}; PGD-{STEPS} is a weak attack: no claim of robustness rests on it",
    ]


def _percent(accuracy) -> str:
    low, high = accuracy.interval
    return (
        f"{100 * accuracy.top1:5.1f} % ({accuracy.correct} of {accuracy.total};"
        f" 95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
    )
