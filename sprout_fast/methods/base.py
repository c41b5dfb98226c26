"""What a training method is to the loop: a mixer, a loss, and how often it runs over a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class MethodSetting:
    """What the run tells a method.

    Args:
        num_classes: K.
        mean, std: normalisation a channel, in [0,1] units; the mixer applies it.
        dtype: of the mixed batch: the autocast type, or float32.
        accumulation_steps: batches an optimizer step.
        seed: of the method's own random states (`PhiloxState`).
        first_row: index of this process's first image in the global batch, so that the draws of W
            processes of B images are those of one process of W*B images.
        device: where the method's buffers live.
    """

    num_classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    dtype: torch.dtype = torch.float32
    accumulation_steps: int = 1
    seed: int = 0
    first_row: int = 0
    device: torch.device | str = "cpu"


class Optimize(Protocol):
    """The loop's half of a step: forward, ``loss(logits, target)``, backward, and an optimizer step
    when the accumulation is complete. Returns the loss, detached."""

    def __call__(self, inputs: Tensor, target: Any, loss: nn.Module) -> Tensor: ...


class Method(nn.Module):
    """A row of Table 1. Its whole state (beta, random states) is in its ``state_dict``.

    Args:
        mixer: (images uint8 [B,3,H,W], labels int64 [B]) -> (inputs [B,3,H,W], target)
        loss: (logits [B,K], target) -> 0-dim float32
    """

    #: How often `training_step` calls ``optimize``; the learning-rate schedule counts with it.
    passes = 1

    def __init__(self, mixer: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer
        self.loss = loss

    def training_step(self, optimize: Optimize, images: Tensor, labels: Tensor) -> None:
        """Train on one batch. Methods that run over a batch several times override this."""
        inputs, target = self.mixer(images, labels)
        optimize(inputs, target, self.loss)

    @property
    def beta(self) -> Tensor | None:
        """SPROUT's beta, float32 [K]; None in methods without it. Checkpoints keep it apart."""
        return None

    def statistics(self) -> dict[str, float]:
        """Numbers for the log, by the name of their column in metrics.csv."""
        return {}

    def warning(self) -> str | None:
        """A line about the method's own state that the user should see, or None."""
        return None
