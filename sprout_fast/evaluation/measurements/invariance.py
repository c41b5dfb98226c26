"""Accuracy under transformations that leave the class as it is (Table 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from sprout_fast.attacks.active import is_misclassified
from sprout_fast.evaluation.measurements.base import Batch, Measurement
from sprout_fast.evaluation.subject import Subject


def _rotation(images: Tensor, degrees: float) -> Tensor:
    from torchvision.transforms.v2 import functional

    return functional.rotate(images, degrees, functional.InterpolationMode.BILINEAR)


def _brightness(images: Tensor, factor: float) -> Tensor:
    from torchvision.transforms.v2 import functional

    return functional.adjust_brightness(images, factor)


def _contrast(images: Tensor, factor: float) -> Tensor:
    from torchvision.transforms.v2 import functional

    return functional.adjust_contrast(images, factor)


def _grey(images: Tensor, amount: float) -> Tensor:
    return images.lerp(images.mean(1, keepdim=True), amount)


TRANSFORMATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "rotation": _rotation,
    "brightness": _brightness,
    "contrast": _contrast,
    "grey": _grey,
}


@dataclass(frozen=True)
class Invariance(Measurement):
    """One transformation of ``TRANSFORMATIONS`` for all images.

    Args:
        transformation: "rotation" (counter-clockwise, bilinear, black corners), "brightness" and
            "contrast" (torchvision's, clipped to [0,1]), or "grey" (towards the mean of RGB).
        amount: degrees, factor, factor, or share in [0,1].

    Column: ``misclassified``.
    """

    transformation: str = "rotation"
    amount: float = 10.0

    def measure(self, subject: Subject, batch: Batch) -> Mapping[str, Tensor]:
        changed = TRANSFORMATIONS[self.transformation](batch.images, self.amount)
        return {
            "misclassified": is_misclassified(subject.logits(changed.clamp(0, 1)), batch.labels)
        }
