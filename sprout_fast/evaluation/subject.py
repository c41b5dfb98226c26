"""What is evaluated: a model, and what is known of how it came about."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Subject:
    """A classifier under evaluation.

    Args:
        model: takes images in [0,1], floating [B,C,H,W], gives logits [B,K].
        name: of the report's title.
        num_classes: K.
        surrogate: another such model, from which `transfer` attacks come; None where there is none.
        beta, alpha: SPROUT's, float32 [K] and in [0,1], where the model was trained with them.
        surrogate_name: what the report calls it.
        config: the training run's options, where they are known.
        class_names: K names, for the gallery.
        time_over_natural: its training's time over natural training's of the same network on the
            same machine, where that was measured.
    """

    model: nn.Module
    name: str
    num_classes: int
    surrogate: nn.Module | None = None
    surrogate_name: str = ""
    beta: Tensor | None = None
    alpha: float = 0.01
    config: Mapping[str, Any] = field(default_factory=dict)
    class_names: list[str] | None = None
    time_over_natural: float | None = None

    @property
    def device(self) -> torch.device:
        tensor = next(chain(self.model.parameters(), self.model.buffers()), None)
        return torch.device("cpu") if tensor is None else tensor.device

    def prepared(self, images: Tensor) -> Tensor:
        """Images [B,C,H,W], uint8 or floating in [0,1], as the model is given them: on its device,
        float32, or float64 where its parameters are."""
        parameter = next(self.model.parameters(), None)
        double = parameter is not None and parameter.dtype == torch.float64
        prepared = images.to(self.device, torch.float64 if double else torch.float32)
        return prepared / 255 if images.dtype == torch.uint8 else prepared

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Float32 logits of images [B,C,H,W] in eval mode's forward pass."""
        return self.model(images).float()


def fingerprint(subject: Subject, *tensors: Tensor) -> str:
    """A hash of all that measured numbers depend on: models, weights and data."""
    digest = hashlib.sha256()
    for model in (subject.model, subject.surrogate):
        digest.update(repr(model).encode())
        if model is not None:
            # Not state_dict: Normalized's mean and std are buffers that it does not hold.
            for name, value in chain(model.named_parameters(), model.named_buffers()):
                digest.update(name.encode())
                _update(digest, value)
    for tensor in tensors:
        _update(digest, tensor)
    return digest.hexdigest()[:16]


def _update(digest: Any, tensor: Tensor) -> None:
    digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
