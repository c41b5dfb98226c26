"""Clean and PGD-10 accuracy at the end of a run, on few images, as a check that it works."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sprout_fast.attacks import Attack
from sprout_fast.data import Loader, SpacedBatches
from sprout_fast.evaluation.accuracy import measure_accuracy
from sprout_fast.models import evaluation_mode

STEPS = 10
EPS, STEP_SIZE = 8 / 255, 2 / 255

# Floating-point operations that the attack may cost on a CPU: about half a minute on two cores.
_CPU_BUDGET = 1.2e12
_MOST, _FEWEST = 200, 10


def default_images(model: nn.Module, image_size: int, device: torch.device) -> int:
    """Return how many validation images to attack: 200, or fewer on a CPU for a large model.

    The number depends on the model and the image size, not on the machine.
    """
    if device.type == "cuda":
        return _MOST
    image = torch.zeros(1, 3, image_size, image_size)
    with FlopCounterMode(display=False) as counter, evaluation_mode(model), torch.no_grad():
        model(image)
    # A step is a forward pass and a backward pass to the image alone, which costs as much again.
    cost = counter.get_total_flops() * (2 * STEPS + 2)
    return int(min(_MOST, max(_FEWEST, _CPU_BUDGET // max(cost, 1))))


def check_accuracy(
    model: nn.Module, loader: Loader, *, count: int, device: torch.device, seed: int
) -> list[str]:
    """Measure clean and PGD-10 accuracy, and return lines for the log.

    Args:
        model: maps images in [0,1] [B,3,H,W] to logits [B,K].
        loader: the validation images.
        count: number of images to use, spread evenly over the loader's.
        device: where to compute.
        seed: of the attack's random starts.
    """
    total = loader.num_images
    attack = Attack("pgd", model, seed=seed, eps=EPS, step_size=STEP_SIZE, steps=STEPS)
    spaced = SpacedBatches(loader, total, count)
    result = measure_accuracy(model, spaced, device=device, attack=attack)
    assert result.attacked is not None
    used = result.clean.total
    images = f"{used} of the {total}" if used < total else f"all {total}"
    return [
        f"final clean accuracy  {result.clean.range}",
        f"final PGD-{STEPS} accuracy {result.attacked.range}"
        "  [l-inf, eps 8/255, step 2/255, random start]",
        f"both on {images} validation images; PGD-{STEPS} is a weak attack and no evidence of"
        " robustness",
    ]
