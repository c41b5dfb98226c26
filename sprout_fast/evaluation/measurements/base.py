"""The interface of a measurement: it maps a batch of images to one result per image."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sprout_fast.evaluation.subject import Subject


@dataclass(frozen=True)
class Batch:
    """A batch of images to measure.

    Args:
        images: [B,C,H,W] in [0,1] on the model's device, float64 if the model is, else float32.
        labels: int64 [B].
        seed: seed of this batch's random numbers, the same each time the batch is measured.
    """

    images: Tensor
    labels: Tensor
    seed: int

    def generator(self) -> torch.Generator:
        """Return a fresh generator on the images' device, seeded with this batch's seed."""
        return torch.Generator(self.images.device).manual_seed(self.seed)


@dataclass(frozen=True)
class Measurement:
    """Base class of measurements: dataclasses whose fields are all of their parameters.

    Args:
        name: name of the measurement, unique within an evaluation and shown in the report.
    """

    name: str

    #: Maximum number of images; the first ones are measured. None means all.
    limit: ClassVar[int | None] = None
    #: Whether only images that are classified correctly without an attack are measured.
    only_correct: ClassVar[bool] = False

    def parameters(self) -> dict[str, Any]:
        """Return all that the result depends on apart from model and data, as plain values."""
        return {"kind": type(self).__name__} | dataclasses.asdict(self)

    def unavailable(self, subject: Subject) -> str | None:
        """Return why ``subject`` cannot be measured, or None if it can."""
        return None

    @property
    def after(self) -> tuple[str, ...]:
        """Names of earlier attacks; only images still correctly classified are measured."""
        return ()

    def measure(self, subject: Subject, batch: Batch) -> Mapping[str, Tensor]:
        """Return one or more named columns of B rows each; the model is in eval mode."""
        raise NotImplementedError
