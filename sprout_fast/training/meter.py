"""Loss, accuracy and speed of training, summed on the device and read only when they are shown."""

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
    """Averages over a stretch of training. Loss in nats; accuracy and data wait in [0,1]."""

    loss: float
    accuracy: float
    images: int
    images_per_second: float
    data_wait: float


class Meter:
    """Sums of one epoch. `add` starts no transfer; `read` waits for the device.

    Accuracy is against the mixed labels: lam for the image's own class, 1 - lam for its partner's.

    Args:
        device: of the logits.
        processes: of the run; images a second are counted for all.
        passes: over each batch; images a second count it once.
    """

    def __init__(self, device: torch.device, processes: int = 1, passes: int = 1) -> None:
        self._speed = processes / passes
        self._window = torch.zeros(2, device=device)  # [loss, hits], since the last reading
        self._bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        self._images = 0
        self._wait = 0.0
        self._start = time.perf_counter()
        self._totals = [0.0, 0.0, 0, 0.0, 0.0]  # loss, hits, images, wait, seconds

    def add(self, loss: Tensor, logits: Tensor, target: MixupTarget, step: int) -> None:
        """Count a batch: ``loss`` 0-dim and ``logits`` [B,K] on the device, detached."""
        predicted = logits.argmax(1)
        hits = (predicted == target.labels).float()
        if target.partner_labels is not None:
            partner_hits = (predicted == target.partner_labels).float()
            hits = partner_hits + target.lam * (hits - partner_hits)
        loss = loss.float()
        self._window += torch.stack([loss * len(logits), hits.sum()])
        first_bad = (self._bad_step < 0) & ~loss.isfinite()
        self._bad_step = torch.where(first_bad, step, self._bad_step)
        self._images += len(logits)

    def waited(self, seconds: float) -> None:
        """Count time in which training waited for the loader."""
        self._wait += seconds

    def read(self) -> Reading:
        """Averages since the last reading.

        Raises:
            FatalError: the loss has been NaN or infinite; the first such step is named.
        """
        loss, hits = self._window.tolist()
        self._check_finite()
        seconds = time.perf_counter() - self._start
        stretch = [loss, hits, self._images, self._wait, seconds]
        self._totals = [total + part for total, part in zip(self._totals, stretch, strict=True)]
        self._window.zero_()
        self._images, self._wait, self._start = 0, 0.0, time.perf_counter()
        return self._reading(*stretch)

    def mean(self) -> Reading:
        """Averages over the whole epoch, up to the last reading."""
        return self._reading(*self._totals)

    def sums(self) -> Tensor:
        """[loss, hits, images] of the epoch so far, float64, to be added over processes."""
        return torch.tensor(self._totals[:3], dtype=torch.float64)

    def _check_finite(self) -> None:
        step = int(self._bad_step)
        if step >= 0:
            raise FatalError(
                f"the training loss is not finite at step {step}: take a lower --lr or a longer"
                " --warmup-epochs (and bf16 or none for --amp fp16); the checkpoint saved before"
                " is kept"
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
