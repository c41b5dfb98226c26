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

Version = Literal["standard", "plus", "rand"]

MISSING = (
    "the official AutoAttack package is not installed: pip install pyautoattack. The protocols "
    "strong and plus have the same attacks"
)
# The repository fra31/auto-attack installs the first, its authors' package on PyPI the second.
_PACKAGES = ("autoattack", "pyautoattack")


def is_installed() -> bool:
    """Return whether one of the packages ``autoattack`` and ``pyautoattack`` can be imported."""
    return any(find_spec(name) is not None for name in _PACKAGES)


@ATTACKS.register("autoattack")
def autoattack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm = "linf",
    eps: float = 8 / 255,
    version: Version = "standard",
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> Tensor:
    """Run the official AutoAttack.

    Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", ICML 2020.

    Args:
        version: the package's set of attacks: ``"standard"``; ``"plus"``, with untargeted FAB and
            APGD on the DLR loss, and more restarts; ``"rand"``, for models that draw random
            numbers.
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
        package = next(name for name in _PACKAGES if find_spec(name) is not None)
        # It seeds torch's global generator, and prints.
        with torch.random.fork_rng(), contextlib.redirect_stdout(io.StringIO()):
            adversary = importlib.import_module(package).AutoAttack(
                model,
                norm=norm.capitalize(),  # Linf, L2 or L1
                eps=eps,
                version=version,
                seed=drawn_seed,
                device=images.device,
            )
            images = images.contiguous()  # the package flattens with view
            found = adversary.run_standard_evaluation(images, labels)
            return (found[0] if isinstance(found, tuple) else found).detach()
