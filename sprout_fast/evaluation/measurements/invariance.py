"""Accuracy under transformations that preserve the class (Table 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from sprout_fast.attacks.active import is_misclassified
from sprout_fast.evaluation.measurements.base import Batch, Measurement
from sprout_fast.evaluation.subject import Subject
from sprout_fast.registry import Registry

TRANSFORMATIONS: Registry[Callable[[Tensor, float], Tensor]] = Registry("transformation")


@TRANSFORMATIONS.register("rotation")
def _rotation(images: Tensor, degrees: float) -> Tensor:
    from torchvision.transforms.v2 import functional

    return functional.rotate(images, degrees, functional.InterpolationMode.BILINEAR)


@TRANSFORMATIONS.register("brightness")
def _brightness(images: Tensor, factor: float) -> Tensor:
    from torchvision.transforms.v2 import functional

    return functional.adjust_brightness(images, factor)


@TRANSFORMATIONS.register("contrast")
def _contrast(images: Tensor, factor: float) -> Tensor:
    from torchvision.transforms.v2 import functional

    return functional.adjust_contrast(images, factor)


@TRANSFORMATIONS.register("gray")
def _gray(images: Tensor, amount: float) -> Tensor:
    return images.lerp(images.mean(1, keepdim=True), amount)


@dataclass(frozen=True)
class Invariance(Measurement):
    """Accuracy on transformed images.

    Args:
        transformation: ``"rotation"`` (counterclockwise, bilinear, black corners),
            ``"brightness"`` and ``"contrast"`` (torchvision's, clipped to [0,1]), or ``"gray"``
            (interpolated toward the mean over the channels).
        amount: angle in degrees, factor, factor, or weight of the mean in [0,1].

    Raises:
        UserError: unknown transformation.

    Column: ``misclassified`` (bool).
    """

    transformation: Literal["rotation", "brightness", "contrast", "gray"] = "rotation"
    amount: float = 10.0

    def __post_init__(self) -> None:
        TRANSFORMATIONS.look_up(self.transformation)

    def measure(self, subject: Subject, batch: Batch) -> Mapping[str, Tensor]:
        changed = TRANSFORMATIONS[self.transformation](batch.images, self.amount)
        logits = subject.logits(changed.clamp(0, 1))
        return {"misclassified": is_misclassified(logits, batch.labels)}
