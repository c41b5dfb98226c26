"""A model that normalizes its input, images in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalized(nn.Module):
    """Compute ``model((images - mean) / std)``, so that attacks and evaluation see [0, 1].

    It maps floating images [B, C, H, W] in [0, 1] to logits [B, K], and normalizes in their dtype.
    ``mean`` and ``std`` are buffers of shape [1, C, 1, 1] that are not in the state dict: they
    belong to a checkpoint's config, and the state dict stays that of ``model``, prefixed.

    Args:
        model: maps normalized images [B, C, H, W] to logits [B, K].
        mean, std: one number per channel, in [0, 1] units; ``std`` > 0.

    Attributes:
        classes: names of the K outputs, or None.
        image_size: side of the square images that the model was trained on, in pixels, or None.

    Raises:
        TypeError: integer images (divide uint8 images by 255 first).
        ValueError: images that are not [B, C, H, W]; ``mean`` and ``std`` of different lengths or
            outside their range.

    >>> model = Normalized(torch.nn.Flatten(), mean=[0.5], std=[0.25])
    >>> model(torch.tensor([0.5, 1.0]).view(1, 1, 1, 2))
    tensor([[0., 2.]])
    """

    mean: Tensor
    std: Tensor
    classes: list[str] | None = None
    image_size: int | None = None

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        means = torch.as_tensor(mean, dtype=torch.float32).flatten()
        stds = torch.as_tensor(std, dtype=torch.float32).flatten()
        if means.numel() == 0 or means.shape != stds.shape:
            raise ValueError(
                f"Normalized: got {means.numel()} mean and {stds.numel()} std values, "
                "expected one of each per channel"
            )
        if not (bool(torch.isfinite(means).all()) and bool((stds > 0).all())):
            raise ValueError(
                f"Normalized: got mean {means.tolist()} and std {stds.tolist()}, "
                "expected finite means and std > 0"
            )
        self.model = model
        self.register_buffer("mean", means.view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", stds.view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if not images.is_floating_point():
            raise TypeError(
                f"Normalized: got {images.dtype} images, expected floating images in [0,1] "
                "(uint8 images: images.float() / 255)"
            )
        if images.ndim != 4 or images.shape[1] != self.mean.shape[1]:
            raise ValueError(
                f"Normalized: got images of shape {list(images.shape)}, "
                f"expected [B,{self.mean.shape[1]},H,W]"
            )
        mean, std = self.mean.to(images.dtype), self.std.to(images.dtype)
        return self.model((images - mean) / std)

    def extra_repr(self) -> str:
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"
