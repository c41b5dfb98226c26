#!/usr/bin/env python
"""Measure clean and PGD-20 accuracy of each method after a few epochs on real images.

python tests/benchmarks/learning.py --data cifar10_images.tar   # 10,000 images, about an hour
python tests/benchmarks/learning.py --data cifar10_images.tar --methods natural,pgd_at --epochs 8

Each row is a run of the trainer of tools/train_cifar.py. The final weights are attacked as in the
paper, by PGD with eps = 0.03 and steps of eps/5, on test images spread over the classes. The attack
is weak: it shows whether a method has learned, and does not demonstrate robustness.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from sprout_fast import load_model
from sprout_fast.attacks import Attack
from sprout_fast.data import SpacedBatches, build_loaders
from sprout_fast.evaluation import Accuracy, measure_accuracy
from sprout_fast.methods import METHODS
from sprout_fast.models import read_checkpoint
from sprout_fast.training.command import read_recipe
from sprout_fast.training.config import CifarConfig
from sprout_fast.training.run import train

EPS, STEPS = 0.03, 20
RECIPES = ("paper", "expected", "reference-code")


@dataclass
class Options:
    """Command-line options."""

    data: Path
    methods: str = "all"
    """Comma-separated methods, and recipes of SPROUT, e.g. sprout:paper; or all."""
    arch: str = "cifar_resnet8"
    epochs: int = 3
    """Passes over the images; a quarter of that for free_at, which replays each batch."""
    limit_train: int = 10_000
    test_images: Annotated[int, tyro.conf.arg(help="Number of test images to attack.")] = 500
    lr: float = 0.1
    seed: int = 0
    out: Path = Path("runs/learning")


def rows(chosen: str) -> list[str]:
    """Return the names of the rows to train, natural first."""
    others = [name for name in METHODS if name not in ("natural", "sprout")]
    everything = ["natural", *others, *(f"sprout:{recipe}" for recipe in RECIPES)]
    return everything if chosen == "all" else chosen.split(",")


def run(name: str, options: Options) -> dict:
    """Train one row, attack it and return its results."""
    method, _, recipe = name.partition(":")
    values = read_recipe(recipe) if recipe else {"method": method}
    # All rows share the schedule. Other options of a recipe are kept: the authors' code does not
    # normalize images and makes three steps per batch.
    shared = {"epochs", "lr", "schedule", "batch_size", "warmup_epochs", "weight_decay"}
    values = {key: value for key, value in values.items() if key not in shared}
    epochs = max(1, options.epochs // 4) if method == "free_at" else options.epochs
    out = options.out / name.replace(":", "-")
    config = CifarConfig(
        arch=options.arch,
        data=options.data,
        epochs=epochs,
        lr=options.lr,
        warmup_epochs=0.5,
        limit_train=options.limit_train,
        seed=options.seed,
        final_attack_images=0,
        out=out,
        **values,
    )
    start = time.perf_counter()
    if status := train(config):
        sys.exit(status)
    seconds = time.perf_counter() - start
    checkpoint = read_checkpoint(out / "last.pt")
    model, beta = load_model(out / "last.pt"), checkpoint["beta"]
    device = torch.device("cpu")
    test = build_loaders(options.data, loader="memory", batch_size=250, limit_train=250).val
    attack = Attack("pgd", model, eps=EPS, step_size=EPS / 5, steps=STEPS)
    spread = SpacedBatches(test, test.num_images, options.test_images)
    result = measure_accuracy(model, spread, device=device, attack=attack)
    clean = measure_accuracy(model, test, device=device).clean
    return {
        "name": name,
        "epochs": epochs,
        "steps": checkpoint["step"],
        "seconds": seconds,
        "clean": [clean.correct, clean.total],
        "pgd": [result.attacked.correct, result.attacked.total],
        "beta": None if beta is None else [beta.min().item(), beta.max().item()],
    }


def line(row: dict) -> str:
    def percent(counts: list[int]) -> str:
        accuracy = Accuracy(*counts)
        low, high = accuracy.interval
        return f"{100 * accuracy.top1:.1f} % ({100 * low:.1f} to {100 * high:.1f})"

    beta = "" if row["beta"] is None else "{:.2f} to {:.2f}".format(*row["beta"])
    return (
        f"| {row['name']} | {row['epochs']} | {row['steps']} | {percent(row['clean'])}"
        f" | {percent(row['pgd'])} | {beta} | {row['seconds']:.0f} |"
    )


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    table = [
        f"| method | epochs | steps | clean | PGD-{STEPS}, eps {EPS} | beta | seconds |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    done = []
    for name in rows(options.methods):
        done.append(run(name, options))
        table.append(line(done[-1]))
        print(table[-1], flush=True)
        (options.out / "learning.json").write_text(json.dumps(done, indent=1))
        (options.out / "learning.md").write_text("\n".join(table) + "\n")
    print("\n".join(table))
    pgd = {row["name"]: Accuracy(*row["pgd"]).interval for row in done}
    for name in {"pgd_at", "trades"} & pgd.keys():
        if "natural" in pgd and pgd[name][0] <= pgd["natural"][1]:
            sys.exit(f"{name} is not more accurate than natural under PGD-{STEPS}")


if __name__ == "__main__":
    main()
