"""What a training method is to the loop: what it does with a batch, and the state it keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from sprout_fast.nn.mixup import SproutMixup

METHODS: dict[str, type[Method]] = {}


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

    def mixer(self, sigma: float = 0.0, mixup_alpha: float = 0.0) -> SproutMixup:
        """The run's normalisation, with noise of ``sigma`` and Mixup of ``a`` where not 0."""
        if not 0 <= sigma < float("inf"):
            raise ValueError(f"sigma must be a number from 0 up, got {sigma}")
        return SproutMixup(
            sigma,
            mixup_alpha,
            mean=self.mean,
            std=self.std,
            dtype=self.dtype,
            seed=self.seed,
            first_row=self.first_row,
            device=self.device,
        )


class Optimize(Protocol):
    """What the loop lends to `Method.training_step`."""

    #: Images in [0,1] -> logits [B,K] in the run's precision, for attacks and checks. The weights,
    #: modes and batch norm statistics are those of the network in training.
    network: nn.Module
    #: Learning rate of the next optimizer step.
    lr: float

    def __call__(
        self, inputs: Tensor | Sequence[Tensor], target: Any, loss: Callable[[Any, Any], Tensor]
    ) -> Tensor:
        """A training step of the network: forward, ``loss(logits, target)``, backward, and an
        optimizer step when the accumulation is complete.

        Args:
            inputs: normalised [B,3,H,W]; or several such batches, each in a forward pass of its
                own, whose logits ``loss`` gets as a tuple in the same order.
            target: what ``loss`` takes. Its fields ``labels``, ``partner_labels`` and ``lam``
                (`MixupTarget`) also tell the log which predictions are right.

        Returns:
            the loss, detached.
        """
        ...

    def logits(self, inputs: Tensor) -> Tensor:
        """Logits [B,K] of normalised inputs in a forward pass of training without a gradient."""
        ...


class Method(nn.Module):
    """A row of Table 1. Its state (beta, random states) is in its ``state_dict``; what attacks
    draw comes from torch's own generator, as dropout's numbers do.

    ``class Mixup(Method, name="mixup")`` enters a method into ``METHODS``.

    Args:
        mixer: (images uint8 or floating in [0,1] [B,3,H,W], labels int64 [B]) -> (inputs
            [B,3,H,W], target)
        loss: (logits [B,K], target) -> 0-dim float32
    """

    name: ClassVar[str]

    #: How often `training_step` takes a step with ``optimize``; the learning-rate schedule counts
    #: with it.
    passes = 1

    def __init_subclass__(cls, name: str, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.name = name
        METHODS[name] = cls

    def __init__(self, mixer: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer
        self.loss = loss

    def training_step(self, optimize: Optimize, images: Tensor, labels: Tensor) -> None:
        """Train on one batch: images uint8 [B,3,H,W], labels int64 [B]."""
        inputs, target = self.mixer(images, labels)
        optimize(inputs, target, self.loss)

    def epoch_finished(self, optimize: Optimize) -> None:
        """Called after the last batch of an epoch, before `statistics` and `warning`."""

    @property
    def beta(self) -> Tensor | None:
        """SPROUT's beta, float32 [K]; None in methods without it. Checkpoints keep it apart."""
        return None

    def statistics(self) -> dict[str, float]:
        """Numbers for the log, always the same, by the name of their column in metrics.csv."""
        return {}

    def warning(self) -> str | None:
        """A line about the method's own state that the user should see, or None."""
        return None
