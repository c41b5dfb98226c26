"""The official AutoAttack package, if installed."""

from __future__ import annotations

import contextlib
import importlib
import io
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor, nn

from sprout_fast.attacks.balls import BALLS, Norm
from sprout_fast.attacks.base import ATTACKS, borrowed, check_floats
from sprout_fast.errors import UserError

MISSING = (
    "the official AutoAttack package is not installed; it is not on PyPI: pip install it from its "
    "GitHub repository, fra31/auto-attack. The protocol strong has the same four attacks"
)


def is_installed() -> bool:
    """Return whether the package ``autoattack`` can be imported."""
    return find_spec("autoattack") is not None


@ATTACKS.register("autoattack")
def autoattack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm = "linf",
    eps: float = 8 / 255,
    version: Literal["standard", "plus", "rand"] = "standard",
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> Tensor:
    """Run the official AutoAttack.

    Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", ICML 2020.

    Args:
        version: the package's set of attacks.
        generator: draws the package's seed.

    Other arguments and errors are those of :func:`~sprout_fast.attacks.pgd.pgd`.

    Returns:
        Images of the same shape and dtype in [0, 1].

    Raises:
        UserError: the package is not installed.
    """
    BALLS.look_up(norm)
    check_floats("autoattack", eps=eps)
    if not is_installed():
        raise UserError(f"attack autoattack: {MISSING}")
    with borrowed("autoattack", model, images, labels, generator, seed) as (images, labels, drawn):
        drawn_seed = int(torch.randint(2**31, (), generator=drawn, device=drawn.device))
        # It seeds torch's global generator, and prints in spite of verbose=False.
        with torch.random.fork_rng(), contextlib.redirect_stdout(io.StringIO()):
            adversary = importlib.import_module("autoattack").AutoAttack(
                model,
                norm=norm.capitalize(),  # Linf or L2
                eps=eps,
                version=version,
                seed=drawn_seed,
                device=images.device,
                verbose=False,
            )
            images = images.contiguous()  # the package flattens with view
            return adversary.run_standard_evaluation(images, labels, bs=len(images)).detach()
