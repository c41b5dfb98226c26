#!/usr/bin/env python
"""Simulate beta over a training run, and print the mass that labels keep on the true class.

python tests/benchmarks/label_mass.py [--page docs/method.md]
python tests/benchmarks/label_mass.py --epochs 2    # a run of another length

The simulated network is ideal: for an image of class y it predicts the mean of the labels that it
is trained on, E[z | y], whatever the current beta. Then the gradient of beta is known in closed
form, and 90 epochs take seconds. A real network starts further from its labels, and Mixup mixes
them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import _paths  # noqa: F401
import numpy as np
import torch
from numpy.typing import NDArray
from pages import replace_section
from training_benchmark.tables import markdown_table

from sprout_fast import SproutLoss
from sprout_fast.training.command import read_recipe
from sprout_fast.training.optim import learning_rate_factor

EPOCHS, READ_AT = 90, (1, 10, 90)
IMAGES = {10: 50_000, 100: 50_000, 1000: 1_281_167}  # CIFAR-10, CIFAR-100, ImageNet
SUBSTEPS = 400  # per epoch; beta changes by far less than itself in each
BATCH = 128  # at which the authors' code has its learning rate


def expected_gradient(beta: NDArray, alpha: float) -> NDArray:
    """Return dE[L]/d beta [K], the mean over true classes, at an ideal network's predictions.

    ``(c_k - E[L]) / a_0`` times da_k/d beta_k = scale * alpha, with c = -log E[z | y]; the scale
    cancels.
    """
    total = 1 - alpha + alpha * beta.sum()
    wrong, right = alpha * beta / total, (1 - alpha + alpha * beta) / total
    cost_wrong, cost_right = -np.log(wrong), -np.log(right)
    loss = (wrong * cost_wrong).sum() - wrong * cost_wrong + right * cost_right  # by true class
    cost = ((len(beta) - 1) * cost_wrong + cost_right) / len(beta)
    return alpha * (cost - loss.mean()) / total


def simulate(classes: int, recipe: str | None, epochs: int = EPOCHS) -> list[float]:
    """Return the expected mass on the true class after the epochs in ``READ_AT``, and the last."""
    options = {} if recipe is None else read_recipe(recipe)
    follows_lr = options.get("beta_lr") == "lr"
    names = ("alpha", "scale", "beta_init", "beta_momentum", "beta_weight_decay", "mass_floor")
    loss = SproutLoss(classes, **{n: options[n] for n in names if n in options})
    rate = options["lr"] / BATCH if follows_lr else loss.beta_lr
    rate *= IMAGES[classes] / SUBSTEPS / (1 - loss.beta_momentum)
    beta = loss.beta.double().numpy()
    masses = []
    for step in range(epochs * SUBSTEPS):
        factor = learning_rate_factor(
            step, options.get("schedule", "cosine"), warmup_steps=0, total_steps=epochs * SUBSTEPS
        )
        gradient = expected_gradient(beta, loss.alpha) - loss.beta_weight_decay * beta
        beta = np.maximum(beta + rate * factor * gradient, loss.beta_min)
        if loss.mass_floor:
            slope = loss.alpha * (loss.mass_floor - 1 / classes)
            largest = (1 - loss.alpha) * (1 - loss.mass_floor) / slope
            beta = np.maximum(beta * min(1, largest / beta.sum()), loss.beta_min)
        if (step + 1) % SUBSTEPS == 0 and (step + 1) // SUBSTEPS in read_at(epochs):
            loss.beta.copy_(torch.from_numpy(beta))
            masses.append(loss.expected_true_mass().item())
    return masses


def read_at(epochs: int) -> list[int]:
    """Return the epochs after which the mass is read."""
    return sorted({*(one for one in READ_AT if one < epochs), epochs})


def rows(recipes: Iterable[str | None], epochs: int = EPOCHS) -> list[list[str]]:
    """Return the rows of the table: a recipe, a number of classes, and the masses."""
    return [
        [
            f"`{recipe}`" if recipe else "none",
            str(k),
            *(f"{mass:.2f}" for mass in simulate(k, recipe, epochs)),
        ]
        for recipe in recipes
        for k in IMAGES
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--page", type=Path, help="page whose table is replaced")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="length of the run")
    given = parser.parse_args()
    header = ["`--recipe`", "K", *(f"epoch {n}" for n in read_at(given.epochs))]
    table = markdown_table(header, rows((None, "paper", "reference-code"), given.epochs), left=1)
    print(table)
    if given.page is not None:
        replace_section(given.page, "label-mass", table)


if __name__ == "__main__":
    main()
