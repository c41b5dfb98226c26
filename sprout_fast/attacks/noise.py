"""Uniform random points of a ball, the baseline that every attack should beat."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sprout_fast.attacks.active import ActiveSet
from sprout_fast.attacks.balls import BALLS, Norm
from sprout_fast.attacks.base import ATTACKS, borrowed, check_floats, check_ints


@ATTACKS.register("noise")
def noise(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm = "linf",
    eps: float = 8 / 255,
    draws: int = 100,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> Tensor:
    """Draw random points of the ball around each image until one is misclassified.

    It is a control for attacks: where noise fools a model that gradients do not, the gradients are
    masked (Athalye, Carlini & Wagner, "Obfuscated Gradients Give a False Sense of Security", ICML
    2018, section 3.1).

    Args:
        draws: points per image, >= 0.

    Other arguments and errors are those of :func:`~sprout_fast.attacks.pgd.pgd`.

    Returns:
        Images of the same shape and dtype in the ball and in [0, 1]: the first point that is
        misclassified, or the last one drawn.

    >>> images = torch.full((1, 2, 1, 1), 0.5)
    >>> got = noise(torch.nn.Flatten(), images, torch.tensor([0]), eps=0.1)
    >>> bool(got[0, 1] > got[0, 0])
    True
    """
    ball = BALLS.look_up(norm)
    check_floats("noise", eps=eps)
    check_ints("noise", 0, draws=draws)
    with borrowed("noise", model, images, labels, generator, seed) as (images, labels, generator):
        active = ActiveSet(images, labels)
        for _ in range(draws):
            if len(active) == 0:
                break
            points = ball.uniform(images[active.rows], eps, generator)
            active.update(points)
            with torch.no_grad():
                active.drop(points, model(points))
        return active.adversarial
