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
from sprout_fast.attacks.base import ATTACKS, borrowed, check_number
from sprout_fast.errors import UserError

_NORMS = {"linf": "Linf", "l2": "L2"}
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
        model: maps images in [0, 1] to logits [B, K]. Its state is left unchanged.
        images: float32 or float64 [B, C, H, W] in [0, 1].
        labels: int64 [B].
        norm: ``"linf"`` or ``"l2"``.
        eps: radius of the ball, >= 0, on images in [0, 1].
        version: the package's set of attacks.
        generator: draws the package's seed. Default: a new generator on the images' device.
        seed: seed of that new generator.

    Returns:
        Images of the same shape and dtype in [0, 1].

    Raises:
        TypeError, ValueError: images that :func:`~sprout_fast.attacks.base.check_images` rejects,
            or a negative ``eps``.
        UserError: the package is not installed, or unknown norm.
    """
    BALLS.look_up(norm)
    check_number("autoattack", "eps", eps)
    if not is_installed():
        raise UserError(f"attack autoattack: {MISSING}")
    with borrowed("autoattack", model, images, labels, generator, seed) as (images, labels, drawn):
        drawn_seed = int(torch.randint(2**31, (), generator=drawn, device=drawn.device))
        # It seeds torch's global generator, and prints in spite of verbose=False.
        with torch.random.fork_rng(), contextlib.redirect_stdout(io.StringIO()):
            adversary = importlib.import_module("autoattack").AutoAttack(
                model,
                norm=_NORMS[norm],
                eps=eps,
                version=version,
                seed=drawn_seed,
                device=images.device,
                verbose=False,
            )
            images = images.contiguous()  # the package flattens with view
            return adversary.run_standard_evaluation(images, labels, bs=len(images)).detach()
