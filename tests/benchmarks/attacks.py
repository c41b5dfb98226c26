#!/usr/bin/env python
"""Time PGD-20 against bare passes through the network, foolbox and torchattacks.

python tests/benchmarks/attacks.py --data cifar10_images.tar            # ResNet-20 and VGG-16
python tests/benchmarks/attacks.py --data cifar10_images.tar --networks runs/pgd_at/last.pt

"bare passes" are an attack's forward and backward passes and nothing else, on all images or, in
each pass, on as many as sprout_fast's attack has not yet succeeded on. On each batch all
contestants take turns in rotating order, and ratios are taken within a batch. A network given by
its architecture has random weights, and its own predictions are the labels, so that all images are
correctly classified at first and most are misclassified in the end.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

import _paths  # noqa: F401
import foolbox
import torch
import torch.nn.functional as F
import torchattacks
import tyro
from torch import Tensor, nn
from training_benchmark import machine

from sprout_fast import data, load_model
from sprout_fast.attacks.pgd import pgd
from sprout_fast.models import create_model, evaluation_mode, frozen_parameters

BARE_ACTIVE, BARE_ALL = "bare passes, active images", "bare passes, all images"


@dataclass
class Options:
    """Command-line options."""

    data: Path | None = None
    """CIFAR-10 in a format that train_cifar.py accepts; random pixels if not given."""
    networks: str = "cifar_resnet20,cifar_vgg16"
    """Comma-separated architectures or checkpoints."""
    images: int = 1000
    batch_size: int = 100
    eps: float = 8 / 255
    steps: int = 20
    threads: int = 1
    """Number of CPU threads. With 1, CPU time is measured, which is robust to other processes."""


def bare(model: nn.Module, images: Tensor, labels: Tensor, active: list[int]) -> None:
    """Make one forward and backward pass for each number of images in ``active``."""
    for count in active:
        batch = images[:count].clone().requires_grad_()
        loss = F.cross_entropy(model(batch), labels[:count], reduction="sum")
        torch.autograd.grad(loss, batch)


def passes(model: nn.Module, attack: Callable[[Tensor, Tensor], Tensor], *batch) -> list[int]:
    """Return the number of images in each forward pass of an attack."""
    seen: list[int] = []
    handle = model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    try:
        attack(*batch)
    finally:
        handle.remove()
    return seen


def read_network(name: str) -> nn.Module:
    return load_model(name) if Path(name).is_file() else create_model(name, 10)


def read_images(options: Options) -> tuple[Tensor, Tensor]:
    """Return uint8 images [N,3,32,32] and their labels, spread over the classes."""
    if options.data is None:
        return torch.randint(256, (options.images, 3, 32, 32), dtype=torch.uint8), torch.zeros(0)
    found = data.read_images(options.data, loader="memory", limit=options.images)
    return found.images.contiguous(), found.labels


def contestants(model: nn.Module, options: Options) -> dict[str, Callable]:
    eps, step_size, steps = options.eps, options.eps / 4, options.steps
    theirs = foolbox.attacks.LinfPGD(abs_stepsize=step_size, steps=steps)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    ours = partial(pgd, model, eps=eps, step_size=step_size, steps=steps)
    return {
        "sprout_fast": ours,
        "sprout_fast, last iterate": partial(ours, early_stop=False),
        "foolbox": lambda images, labels: theirs.run(wrapped, images, labels, epsilon=eps),
        "torchattacks": torchattacks.PGD(model, eps=eps, alpha=step_size, steps=steps),
    }


def measure(model: nn.Module, images: Tensor, labels: Tensor, options: Options) -> list[str]:
    """Return the rows of the table for one network."""
    now = time.thread_time if options.threads == 1 else time.perf_counter
    attacks = contestants(model, options)
    names = [*attacks, BARE_ACTIVE, BARE_ALL]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    wrong, active = dict.fromkeys(attacks, 0), torch.zeros(options.steps, dtype=torch.int64)
    for turn, batch in enumerate(
        zip(images.split(options.batch_size), labels.split(options.batch_size), strict=True)
    ):
        torch.manual_seed(turn)
        counts = passes(model, attacks["sprout_fast"], *batch)
        counts += [0] * (options.steps - len(counts))
        active += torch.tensor(counts)
        calls = {name: partial(attack, *batch) for name, attack in attacks.items()} | {
            BARE_ACTIVE: partial(bare, model, *batch, [c for c in counts if c > 0]),
            BARE_ALL: partial(bare, model, *batch, [len(batch[0])] * options.steps),
        }
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = now()
            result = calls[name]()
            seconds[name].append(now() - start)
            if name in attacks:
                with torch.no_grad():
                    wrong[name] += (model(result).argmax(1) != batch[1]).sum().item()
    print(f"images per pass: {active.tolist()}", flush=True)

    def ratio(name: str, other: str) -> str:
        ratios = [a / b for a, b in zip(seconds[name], seconds[other], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        return f"{middle:.2f} [{low:.2f}, {high:.2f}]"

    rows = []
    for name in names:
        own = BARE_ACTIVE if name == "sprout_fast" else BARE_ALL
        cells = [
            name,
            f"{sum(seconds[name]):.1f}",
            *(ratio(name, other) for other in (own, "foolbox", "torchattacks")),
            f"{100 * wrong[name] / len(images):.1f} %" if name in attacks else "",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    others = machine.OthersUse()
    pixels, truth = read_images(options)
    for name in options.networks.split(","):
        model = read_network(name)
        images = pixels / 255
        # No gradients of parameters, which foolbox would otherwise compute.
        with evaluation_mode(model), frozen_parameters(model):
            with torch.no_grad():
                predicted = torch.cat([model(part).argmax(1) for part in images.split(250)])
            labels = truth if Path(name).is_file() else predicted
            rows = measure(model, images, labels, options)
        print(
            f"\n{name}: PGD-{options.steps}, eps {options.eps:.4f}, {options.images} images in"
            f" batches of {options.batch_size}\n\n"
            "| | s | / bare passes | / foolbox | / torchattacks | success |\n"
            "| --- | ---: | ---: | ---: | ---: | ---: |\n" + "\n".join(rows),
            flush=True,
        )
    print("\n" + machine.caption(machine.machine_info() | {"others": others()}, str(date.today())))
    print("Ratios: median over the batches [quartiles].")


if __name__ == "__main__":
    main()
