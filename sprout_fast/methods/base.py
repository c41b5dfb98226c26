"""The interface between training methods and the training loop."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from sprout_fast.errors import UserError
from sprout_fast.nn.mixup import SproutMixup
from sprout_fast.registry import Registry, nearest

#: Training methods by name.
METHODS: Registry[Callable[..., Method]] = Registry("method", "sprout_fast.methods")


@dataclass(frozen=True)
class MethodSetting:
    """Properties of a run that a method depends on.

    Args:
        num_classes: number of classes K.
        mean, std: normalization per channel, in [0, 1] units, which the mixer applies.
        dtype: dtype of the mixed batch, the autocast dtype or float32.
        accumulation_steps: batches per optimizer step.
        seed: seed of the method's own random states (:class:`~sprout_fast.PhiloxState`).
        first_row: index of this process's first image in the global batch, so that W processes with
            B images each draw what one process with W * B images draws.
        device: device of the method's buffers.

    >>> MethodSetting(num_classes=10, mean=(0.5,) * 3, std=(0.25,) * 3).mixer(sigma=0.1).sigma
    0.1
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
        """Return a mixer with the run's normalization, and with noise and Mixup unless 0.

        ``sigma`` and ``mixup_alpha`` are those of :class:`~sprout_fast.SproutMixup`.

        Raises:
            ValueError: a number outside its range.
        """
        if not 0 <= sigma < float("inf"):
            raise ValueError(f"sigma: got {sigma}, expected a finite number >= 0")
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
    """A training step of the network, which the loop passes to :meth:`Method.training_step`."""

    @property
    def network(self) -> nn.Module:
        """The network for attacks and checks: images in [0, 1] to logits, in the run's precision.

        It shares weights, modes and batch norm statistics with the network in training.
        """
        ...

    @property
    def lr(self) -> float | Tensor:
        """Learning rate of the next optimizer step; a 0-dim tensor in a captured step."""
        ...

    @property
    def lr_factor(self) -> float | Tensor:
        """The same as a fraction of the schedule's peak."""
        ...

    def __call__(
        self, inputs: Tensor | Sequence[Tensor], target: Any, loss: Callable[[Any, Any], Tensor]
    ) -> Tensor:
        """Run forward, loss and backward, and an optimizer step when accumulation is complete.

        Args:
            inputs: normalized [B, 3, H, W]; or several such batches, each with its own forward
                pass, whose logits are passed to ``loss`` as a tuple in the same order.
            target: second argument of ``loss``. The log counts correct predictions by its fields
                ``labels``, ``partner_labels`` and ``lam``
                (:class:`~sprout_fast.MixupTarget`).
            loss: maps logits and target to a scalar.

        Returns:
            The loss, detached.
        """
        ...

    def logits(self, inputs: Tensor) -> Tensor:
        """Return logits [B, K] of normalized inputs, from a training pass without a graph."""
        ...


class Method(nn.Module):
    """Base class of training methods, the rows of Table 1.

    ``class Mine(Method, name="mine")`` adds a method to :data:`METHODS`. Its first argument is a
    :class:`MethodSetting`; its options are keyword-only. State (beta, random states) is in its
    ``state_dict``. Attacks draw from torch's own generator, as dropout does.

    Args:
        mixer: maps images, uint8 or floating in [0, 1], [B, 3, H, W], and labels, int64 [B], to
            inputs [B, 3, H, W] and a target.
        loss: maps logits [B, K] and the target to a float32 scalar.
    """

    name: ClassVar[str]
    mixer: nn.Module
    loss: nn.Module

    #: Number of calls of ``optimize`` per :meth:`training_step`: the learning rate schedule counts
    #: by it, and a CUDA graph holds as many optimizer steps.
    passes = 1

    #: Whether a CUDA graph of one :meth:`training_step` serves for all: it launches the same for
    #: every batch, reads nothing from the device, and keeps no state in Python. A class that
    #: overrides :meth:`training_step` says so itself.
    capturable: ClassVar[bool] = True

    def __init_subclass__(cls, name: str, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.name = name
        if "training_step" in vars(cls):
            cls.capturable = vars(cls).get("capturable", False)
        METHODS.register(name)(cls)

    def __init__(self, mixer: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer
        self.loss = loss

    def training_step(self, optimize: Optimize, images: Tensor, labels: Tensor) -> None:
        """Train on one batch: images uint8 [B, 3, H, W], labels int64 [B]."""
        inputs, target = self.mixer(images, labels)
        optimize(inputs, target, self.loss)

    def epoch_finished(self, optimize: Optimize) -> None:
        """Run after the last batch of an epoch, before :meth:`statistics` and :meth:`warning`."""

    @property
    def beta(self) -> Tensor | None:
        """SPROUT's beta, float32 [K], or None. Checkpoints store it separately."""
        return None

    def statistics(self) -> dict[str, float]:
        """Return numbers to log, always the same ones, by their column name in metrics.csv."""
        return {}

    def warning(self) -> str | None:
        """Return one line about the method's own state that the user should see, or None."""
        return None


def build_method(name: str, setting: MethodSetting, **options: Any) -> Method:
    """Build the method called ``name``, a key of :data:`METHODS`, with its own options.

    Raises:
        UserError: an unknown method, an option that the method does not have, a value outside its
            range, or gradient accumulation with a method that takes several optimizer steps on a
            batch.

    >>> setting = MethodSetting(num_classes=10, mean=(0.5,) * 3, std=(0.25,) * 3)
    >>> build_method("ga", setting, sigma=0.05).mixer
    SproutMixup(
      sigma=0.05, mixup_alpha=0.0, noise='marginal'
      (rng): PhiloxState(seed, offset, first_row = [0, 0, 0])
    )
    """
    method = METHODS.look_up(name)
    accepted = list(inspect.signature(method).parameters)[1:]
    for option, value in options.items():
        if option not in accepted:
            raise UserError(
                f"{value}: method {name} has no such option, expected one of "
                f"{', '.join(sorted(accepted)) or 'none'}{nearest(option, accepted)}",
                option=option,
            )
    try:
        built = method(setting, **options)
    except ValueError as error:
        raise UserError(f"{name}: {error}", option="method") from error
    if setting.accumulation_steps > 1 and built.passes > 1:
        raise UserError(
            f"{setting.accumulation_steps}: not supported by method {name}, which takes "
            f"{built.passes} optimizer steps per batch",
            option="accumulation_steps",
        )
    return built
