"""The official AutoAttack package, where it is installed."""

from __future__ import annotations

import contextlib
import io
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from sprout_fast.attacks.balls import ball_of
from sprout_fast.attacks.base import borrowed, check_number, register
from sprout_fast.errors import UserError

_NORMS = {"linf": "Linf", "l2": "L2"}
MISSING = (
    "the official AutoAttack package is not installed; it is not on PyPI: pip install it from its "
    "GitHub repository, fra31/auto-attack. The protocol strong has the same four attacks"
)


def is_installed() -> bool:
    """Whether `autoattack` can be imported."""
    return find_spec("autoattack") is not None


@register("autoattack")
def autoattack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: str = "linf",
    eps: float = 8 / 255,
    version: str = "standard",
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> Tensor:
    """Images in [0,1] that the official AutoAttack gives (Croce & Hein 2020).

    Args:
        model: takes images in [0,1], gives logits [B,K].
        images: float32 or float64 [B,C,H,W] in [0,1].
        labels: int64 [B].
        norm: "linf" or "l2"; eps: radius, in [0,1] units.
        version: the package's own: "standard", "plus" or "rand".
        generator: gives the package's seed; without one, ``seed`` does.

    Returns:
        images like ``images``.

    Raises:
        UserError: the package is not installed.
    """
    ball_of(norm)
    check_number("autoattack", "eps", eps)
    if not is_installed():
        raise UserError(f"attack autoattack: {MISSING}")
    from autoattack import AutoAttack

    with borrowed("autoattack", model, images, labels, generator, seed) as (images, labels, drawn):
        drawn_seed = int(torch.randint(2**31, (), generator=drawn, device=drawn.device))
        # It seeds torch's global generator, and prints although it is told not to.
        with torch.random.fork_rng(), contextlib.redirect_stdout(io.StringIO()):
            adversary = AutoAttack(
                model,
                norm=_NORMS[norm],
                eps=eps,
                version=version,
                seed=drawn_seed,
                device=images.device,
                verbose=False,
            )
            images = images.contiguous()  # it flattens by view
            return adversary.run_standard_evaluation(images, labels, bs=len(images)).detach()
