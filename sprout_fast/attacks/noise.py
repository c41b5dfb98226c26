"""Random points of the ball: what no attack may do worse than."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sprout_fast.attacks.active import ActiveSet
from sprout_fast.attacks.balls import ball_of
from sprout_fast.attacks.base import borrowed, check_count, check_number, register


@register("noise")
def noise(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: str = "linf",
    eps: float = 8 / 255,
    draws: int = 100,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> Tensor:
    """Images in [0,1] at uniform random points of the ball, the first at which the model errs.

    No attack but its control: where noise fools a model that gradients do not, the gradients are
    at fault (Athalye, Carlini & Wagner, "Obfuscated Gradients Give a False Sense of Security",
    ICML 2018, section 3.1).

    Args:
        model: takes images in [0,1], gives logits [B,K].
        images: float32 or float64 [B,C,H,W] in [0,1].
        labels: int64 [B].
        norm: "linf" or "l2"; eps: radius, in [0,1] units.
        draws: points an image, >= 0.
        generator: of the points. Without one, a fresh one seeded with ``seed``.

    Returns:
        images like ``images``; one that never fell is at its last point.

    >>> import torch
    >>> images = torch.full((1, 2, 1, 1), 0.5)
    >>> got = noise(torch.nn.Flatten(), images, torch.tensor([0]), eps=0.1)
    >>> bool(got[0, 1] > got[0, 0])
    True
    """
    ball = ball_of(norm)
    check_number("noise", "eps", eps)
    check_count("noise", "draws", draws)
    with borrowed("noise", model, images, labels, generator, seed) as (images, labels, generator):
        active = ActiveSet(images, labels)
        for _ in range(draws):
            if len(active) == 0:
                break
            points = ball.uniform(images[active.rows], eps, generator)
            active.keep(points)
            with torch.no_grad():
                active.drop(points, model(points))
        return active.adversarial
