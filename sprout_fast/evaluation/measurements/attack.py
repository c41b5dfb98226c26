"""The success of an attack on each image, judged by the model's own prediction."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from sprout_fast.attacks import ATTACKS, Attack
from sprout_fast.attacks.active import is_misclassified
from sprout_fast.attacks.balls import BALLS
from sprout_fast.attacks.base import check_options
from sprout_fast.evaluation.measurements.base import Batch, Measurement
from sprout_fast.evaluation.names import NormName
from sprout_fast.evaluation.subject import Subject


@dataclass(frozen=True)
class AttackMeasurement(Measurement):
    """One attack with its options.

    Images that the model misclassifies without an attack are not attacked.

    Args:
        attack: a key of ``sprout_fast.attacks.ATTACKS``.
        norm: norm of the ball in which a perturbation counts as a success.
        eps: radius of that ball, for images in [0,1].
        options: the attack's own options.
        cascade: names of earlier attacks; only images still correctly classified are attacked.

    Raises:
        UserError: unknown attack, option or norm.

    Columns: ``misclassified`` (bool: the model misclassifies the attacked image, which is inside
    the ball), ``linf``, ``l2`` and ``l1`` (float64: distance of the attacked image from the clean
    one), ``predicted`` (int64) and ``adversarial`` (the attacked images, kept for the gallery
    only).
    """

    attack: str = "pgd"
    norm: NormName = "linf"
    eps: float = 8 / 255
    options: Mapping[str, Any] = field(default_factory=dict)
    cascade: tuple[str, ...] = ()

    only_correct: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_options(self.attack, dict(self.options))
        BALLS.look_up(self.norm)

    def parameters(self) -> dict[str, Any]:
        """Return the fields, and as ``defaults`` the attack's options that they leave unset."""
        parameters = inspect.signature(ATTACKS[self.attack]).parameters.values()
        free = [one for one in parameters if one.kind is one.KEYWORD_ONLY]
        chosen = {"norm", "eps", "generator", "seed", *self.options}
        defaults = {one.name: one.default for one in free if one.default is not one.empty}
        unset = {name: value for name, value in defaults.items() if name not in chosen}
        return super().parameters() | {"defaults": unset}

    @property
    def after(self) -> tuple[str, ...]:
        return self.cascade

    def unavailable(self, subject: Subject) -> str | None:
        if self.attack == "transfer" and subject.surrogate is None:
            return "transfer attacks need a surrogate model"
        return None

    def measure(self, subject: Subject, batch: Batch) -> dict[str, Tensor]:
        options: dict[str, Any] = {"eps": self.eps, **self.options}
        if self.attack != "cw_l2":  # which supports a single norm and has no option of that name
            options["norm"] = self.norm
        if self.attack == "transfer":
            options["surrogate"] = subject.surrogate
        attack = Attack(self.attack, subject.model, seed=batch.seed, **options)
        adversarial = attack(batch.images, batch.labels)
        logits = subject.logits(adversarial)
        distances = {name: ball.distance(adversarial, batch.images) for name, ball in BALLS.items()}
        within = within_ball(distances[self.norm], self.eps)
        return {
            "misclassified": is_misclassified(logits, batch.labels) & within,
            "predicted": logits.argmax(1),
            "adversarial": adversarial,
            **distances,
        }


def within_ball(distance: Tensor, eps: float) -> Tensor:
    """Return whether a distance is at most eps, up to the rounding of float32 images.

    The attacks of this package stay inside the ball exactly. Others compute image + eps in float32,
    whose rounding error of up to 2^-25 at pixels near 1 can exceed any relative tolerance for small
    eps, and in l1 they add up over the pixels.

    >>> within_ball(torch.tensor([0.03, 0.04], dtype=torch.float64), 0.03)
    tensor([ True, False])
    """
    return distance <= eps * (1 + 1e-5) + torch.finfo(torch.float32).eps
