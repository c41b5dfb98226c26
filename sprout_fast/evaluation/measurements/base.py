"""What a measurement is: a question put to a batch, and its answer for each image."""

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
    """Images under measurement.

    Args:
        images: float32 [B,C,H,W] in [0,1], float64 where the model is, on the model's device.
        labels: int64 [B].
        seed: of what this batch draws; the same whenever this batch is measured again.
    """

    images: Tensor
    labels: Tensor
    seed: int

    def generator(self) -> torch.Generator:
        """A fresh generator of this batch's own, on the images' device."""
        return torch.Generator(self.images.device).manual_seed(self.seed)


@dataclass(frozen=True)
class Measurement:
    """Base of all measurements: dataclasses whose fields are their whole parameters.

    Args:
        name: unique within an evaluation; it heads the rows and columns of the report.
    """

    name: str

    #: The most images that it is worth, the first ones; None is all.
    limit: ClassVar[int | None] = None
    #: Whether images that the model gets wrong without any attack are measured too.
    of_wrong: ClassVar[bool] = True

    def parameters(self) -> dict[str, Any]:
        """All that the answer depends on beside model and data, as plain values."""
        fields = dataclasses.asdict(self)
        return {"kind": type(self).__name__} | fields

    def unavailable(self, subject: Subject) -> str | None:
        """Why this cannot be measured of ``subject``; None where it can."""
        return None

    @property
    def after(self) -> tuple[str, ...]:
        """Names of attacks after which only the images that still stand are measured."""
        return ()

    def measure(self, subject: Subject, batch: Batch) -> Mapping[str, Tensor]:
        """One or several columns of B rows each; the model is in eval mode meanwhile."""
        raise NotImplementedError
