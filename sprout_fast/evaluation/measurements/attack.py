"""An attack's success on each image, judged by the model's own answer to what it made."""

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
from sprout_fast.evaluation.measurements.base import Batch, Measurement
from sprout_fast.evaluation.subject import Subject

# Attacks that know one norm alone and have no option of that name.
OF_ONE_NORM = ("cw_l2",)


@dataclass(frozen=True)
class AttackMeasurement(Measurement):
    """One attack with its options.

    Args:
        attack: a key of ``sprout_fast.attacks.ATTACKS``.
        norm, eps: the ball in which a perturbation counts as success.
        options: the attack's own.
        cascade: attacks after which only the images that all of them left standing are attacked.

    Columns: ``misclassified`` (the model errs on the attacked image, which lies within the ball), ``linf``
    and ``l2`` (how far that image is from the clean one, float64), ``predicted`` and
    ``adversarial`` (the attacked image, of which only the gallery's are kept). An image that the
    model gets wrong by itself has fallen at distance 0 and is not attacked.
    """

    attack: str = "pgd"
    norm: str = "linf"
    eps: float = 8 / 255
    options: Mapping[str, Any] = field(default_factory=dict)
    cascade: tuple[str, ...] = ()

    of_wrong: ClassVar[bool] = False

    def parameters(self) -> dict[str, Any]:
        """Also ``defaults``: the attack's other options, as they are when nobody names them."""
        taken = inspect.signature(ATTACKS[self.attack]).parameters.values()
        chosen = {"norm", "eps", "generator", "seed", *self.options}
        defaults = {
            one.name: one.default
            for one in taken
            if one.kind is one.KEYWORD_ONLY
            and one.name not in chosen
            and one.default is not one.empty
        }
        return super().parameters() | {"defaults": defaults}

    @property
    def after(self) -> tuple[str, ...]:
        return self.cascade

    def unavailable(self, subject: Subject) -> str | None:
        if self.attack == "transfer" and subject.surrogate is None:
            return "no other model was given to attack from (--transfer-from)"
        return None

    def measure(self, subject: Subject, batch: Batch) -> Mapping[str, Tensor]:
        options = {"eps": self.eps, **self.options}
        if self.attack not in OF_ONE_NORM:
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
    """Whether a length is at most eps, but for the rounding of float32 images.

    Our own attacks stay in the ball exactly. Others take image + eps in float32, which at a pixel
    near 1 rounds by up to 2^-25: at small eps more than any share of eps.
    """
    return distance <= eps * (1 + 1e-6) + torch.finfo(torch.float32).eps
