"""Loss, accuracy and speed of training, summed on the device and read only to be shown."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from sprout_fast.errors import FatalError
from sprout_fast.nn.mixup import MixupTarget


@dataclass(frozen=True)
class Reading:
    """Averages over some batches.

    Attributes:
        loss: in nats.
        accuracy: fraction in [0,1] of predictions that match the (mixed) labels.
        images: number of images.
        images_per_second: over all processes.
        data_wait: fraction of the time spent waiting for the loader, in [0,1].
    """

    loss: float
    accuracy: float
    images: int
    images_per_second: float
    data_wait: float


class Meter:
    """Sums over one epoch. ``add`` does not synchronize with the device; ``read`` does.

    A prediction counts with weight lam if it is the image's own class, and 1 - lam if it is that of
    its Mixup partner.

    Args:
        device: device of the logits.
        processes: number of processes; images per second are those of all processes.
        passes: optimizer steps on each batch; images per second count a batch once.
    """

    def __init__(self, device: torch.device, processes: int = 1, passes: int = 1) -> None:
        self._speed = processes / passes
        self._window = torch.zeros(2, device=device)  # loss and hits since the last reading
        self._bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        self._images = 0
        self._wait = 0.0
        self._start = time.perf_counter()
        self._totals = [0.0, 0.0, 0, 0.0, 0.0]  # loss, hits, images, wait, seconds

    def add(self, loss: Tensor, logits: Tensor, target: MixupTarget, step: int) -> None:
        """Count a batch.

        Args:
            loss: mean loss of the batch, 0-dim, detached.
            logits: [B,K], detached.
            target: the batch's labels.
            step: number of the optimizer step, for the error message of ``read``.
        """
        predicted = logits.argmax(1)
        hits = (predicted == target.labels).float()
        if target.partner_labels is not None and target.lam is not None:
            partner_hits = (predicted == target.partner_labels).float()
            hits = partner_hits + target.lam * (hits - partner_hits)
        loss = loss.float()
        self._window += torch.stack([loss * len(logits), hits.sum()])
        first_bad = (self._bad_step < 0) & ~loss.isfinite()
        self._bad_step = torch.where(first_bad, step, self._bad_step)
        self._images += len(logits)

    def waited(self, seconds: float) -> None:
        """Count ``seconds`` spent waiting for the loader."""
        self._wait += seconds

    def read(self) -> Reading:
        """Return the averages since the last call.

        Raises:
            FatalError: a loss was NaN or infinite; the message has the number of the first such
                step.
        """
        loss, hits = self._window.tolist()
        self._check_finite()
        seconds = time.perf_counter() - self._start
        since = [loss, hits, self._images, self._wait, seconds]
        self._totals = [total + part for total, part in zip(self._totals, since, strict=True)]
        self._window.zero_()
        self._images, self._wait, self._start = 0, 0.0, time.perf_counter()
        return self._reading(*since)

    def mean(self) -> Reading:
        """Return the averages of the epoch up to the last ``read``."""
        return self._reading(*self._totals)

    def sums(self) -> Tensor:
        """Return loss, hits and images of the epoch up to the last ``read``, float64 [3].

        Unlike averages, they can be added over processes.
        """
        return torch.tensor(self._totals[:3], dtype=torch.float64)

    def _check_finite(self) -> None:
        step = int(self._bad_step)
        if step >= 0:
            raise FatalError(
                f"training loss is not finite at step {step}: lower lr or raise warmup_epochs (and"
                " with amp fp16, try bf16 or none); the previous checkpoint is kept"
            )

    def _reading(
        self, loss: float, hits: float, images: int, wait: float, seconds: float
    ) -> Reading:
        if images == 0:
            return Reading(math.nan, math.nan, 0, 0.0, 0.0)
        return Reading(
            loss / images,
            hits / images,
            images,
            self._speed * images / seconds,
            wait / seconds,
        )
