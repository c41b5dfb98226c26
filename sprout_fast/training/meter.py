"""Loss, accuracy and speed of training, summed on the device and read only to be shown."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sprout_fast.errors import FatalError
from sprout_fast.nn.mixup import MixupTarget
from sprout_fast.ops.meter_step import meter_step_


@dataclass(frozen=True)
class Reading:
    """Averages over some batches."""

    loss: float  # in nats
    accuracy: float  # fraction in [0,1] of predictions that match the (mixed) labels
    images: int
    images_per_second: float  # over all processes
    data_wait: float  # fraction in [0,1] of the time spent waiting for the loader


class Meter:
    """Sums over one epoch. ``add`` does not synchronize with the device; ``read`` does.

    A prediction counts with weight lam if it is the image's own class, and 1 - lam if it is that of
    its Mixup partner. ``bad_step``, an integer on the device, is the first step with a loss that is
    not finite, or -1. Images per second are those of all ``processes``, and count a batch once,
    however many ``passes`` (optimizer steps) the method makes on it.
    """

    def __init__(self, device: torch.device, processes: int = 1, passes: int = 1) -> None:
        self._speed = processes / passes
        # Since the last reading.
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._hits = torch.zeros((), dtype=torch.int64, device=device)
        self.bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        self._images, self._wait, self._start = 0, 0.0, time.perf_counter()
        self._totals = [0.0, 0.0, 0, 0.0, 0.0]  # loss, hits, images, wait, seconds

    def add(self, loss: Tensor, logits: Tensor, target: MixupTarget, step: int) -> None:
        """Count a batch: its mean loss (0-dim) and its logits [B,K], both detached.

        ``step`` is the number of the optimizer step, for the error message of ``read``.
        """
        sums = self._loss, self._hits, self.bad_step
        loss = loss if loss.dtype == torch.float64 else loss.float()
        meter_step_(*sums, loss, logits, *target, step=step)
        self._images += len(logits)

    def waited(self, seconds: float) -> None:
        """Count ``seconds`` spent waiting for the loader."""
        self._wait += seconds

    def read(self) -> Reading:
        """Return the averages since the last call.

        Raises:
            FatalError: a loss was NaN or infinite; the message has the number of the first step.
        """
        sums = self._loss, self._hits.double() / 2**32, self.bad_step.double()
        loss, hits, step = torch.stack(sums).tolist()
        if step >= 0:
            raise FatalError(
                f"training loss is not finite at step {step:.0f}: lower lr or raise warmup_epochs"
                " (and with amp fp16, try bf16 or none)"
            )
        since = [loss, hits, self._images, self._wait, time.perf_counter() - self._start]
        self._totals = [total + part for total, part in zip(self._totals, since, strict=True)]
        self._loss.zero_()
        self._hits.zero_()
        self._images, self._wait, self._start = 0, 0.0, time.perf_counter()
        return self._reading(since)

    def mean(self) -> Reading:
        """Return the averages of the epoch up to the last ``read``."""
        return self._reading(self._totals)

    def sums(self) -> Tensor:
        """Return loss, hits and images of the epoch up to the last ``read``, float64 [3]."""
        return torch.tensor(self._totals[:3], dtype=torch.float64)

    def _reading(self, sums: Sequence[float]) -> Reading:
        loss, hits, images, wait, seconds = sums
        if images == 0:
            return Reading(math.nan, math.nan, 0, 0.0, 0.0)
        speed = self._speed * images / seconds
        return Reading(loss / images, hits / images, int(images), speed, wait / seconds)
