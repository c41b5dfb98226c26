"""The model under evaluation, and what is known about its training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from sprout_fast.models.logits import logits_of


@dataclass
class Subject:
    """A classifier under evaluation.

    Args:
        model: maps images in [0,1], floating point [B,C,H,W], to logits [B,K].
        name: name in the report's title.
        num_classes: K.
        surrogate: another such model, on which transfer attacks are made.
        surrogate_name: its name in the report.
        beta: SPROUT's label parameter beta, float32 [K], if the model was trained with SPROUT.
        alpha: weight of beta in SPROUT's labels, in [0,1].
        config: options of the training run, if known.
        class_names: K names, for the gallery.
        time_over_natural: training time divided by that of natural training of the same network on
            the same machine, if measured.

    >>> subject = Subject(nn.Flatten(), "identity", 4)
    >>> subject.logits(subject.prepared(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)))
    tensor([[1., 1., 1., 1.]])
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
        """Device of the model's first parameter or buffer; the CPU if it has none."""
        tensor = next(chain(self.model.parameters(), self.model.buffers()), None)
        return torch.device("cpu") if tensor is None else tensor.device

    def prepared(self, images: Tensor) -> Tensor:
        """Return images [B,C,H,W], uint8 or floating point in [0,1], as input for the model.

        That is in [0,1] on the model's device, float64 if its parameters are, else float32.
        """
        parameter = next(self.model.parameters(), None)
        double = parameter is not None and parameter.dtype == torch.float64
        prepared = images.to(self.device, torch.float64 if double else torch.float32)
        return prepared / 255 if images.dtype == torch.uint8 else prepared

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Return the model's float32 logits [B,K] for prepared images [B,C,H,W]."""
        return logits_of(self.model, images).float()


def describe(model: nn.Module) -> str:
    """Return the class and size of a network, whatever wraps it.

    >>> describe(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)))
    'a network with 52 parameters'
    """
    count = sum(parameter.numel() for parameter in model.parameters())
    inner = model
    while (
        len(parts := [m for m in inner.children() if next(m.parameters(), None) is not None]) == 1
    ):
        (inner,) = parts
    name = type(inner).__name__
    kind = "a network" if type(inner) is getattr(nn, name, None) else name
    return f"{kind} with {count:,} parameters" if count else f"{kind} without parameters"


def fingerprint(subject: Subject, *tensors: Tensor) -> str:
    """Return a hash of the models' structure and weights and of ``tensors``."""
    digest = hashlib.sha256()
    for model in (subject.model, subject.surrogate):
        digest.update(repr(model).encode())
        if model is not None:
            # Not state_dict: it lacks non-persistent buffers such as Normalized's mean and std.
            for name, value in chain(model.named_parameters(), model.named_buffers()):
                digest.update(name.encode())
                _update(digest, value)
    for tensor in tensors:
        _update(digest, tensor)
    return digest.hexdigest()[:16]


def _update(digest: Any, tensor: Tensor) -> None:
    digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
