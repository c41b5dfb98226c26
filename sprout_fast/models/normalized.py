"""A model that takes images in [0,1] and normalises them inside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalized(nn.Module):
    """`model((images - mean) / std)`: what attacks and evaluation see.

    Args:
        model: takes normalised images, gives logits [B,K].
        mean, std: one number a channel, in [0,1] units; std > 0.

    Call: images, floating [B,C,H,W] in [0,1] -> logits [B,K]. The normalisation is done in the
    images' dtype. `mean` and `std` are buffers of shape [1,C,1,1] that are not in the state dict:
    they belong to the model's record (a checkpoint's config), and a foreign loop need not know
    them.

    Raises:
        TypeError: integer images (divide uint8 images by 255 first).
        ValueError: images that are not [B,C,H,W]; mean and std of different lengths or std <= 0.

    >>> import torch
    >>> model = Normalized(torch.nn.Flatten(), mean=[0.5], std=[0.25])
    >>> model(torch.tensor([0.5, 1.0]).view(1, 1, 1, 2))
    tensor([[0., 2.]])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        mean = torch.as_tensor(mean, dtype=torch.float32).flatten()
        std = torch.as_tensor(std, dtype=torch.float32).flatten()
        if mean.numel() == 0 or mean.shape != std.shape:
            raise ValueError(
                f"Normalized: got {mean.numel()} mean and {std.numel()} std values, "
                "takes one of each a channel"
            )
        if not (bool(torch.isfinite(mean).all()) and bool((std > 0).all())):
            raise ValueError(
                f"Normalized: got mean {mean.tolist()}, std {std.tolist()}; "
                "takes finite means and std > 0"
            )
        self.model = model
        self.register_buffer("mean", mean.view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", std.view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if not images.is_floating_point():
            raise TypeError(
                f"Normalized: got {images.dtype} images, takes floating images in [0,1] "
                "(uint8 images: images.float() / 255)"
            )
        if images.ndim != 4 or images.shape[1] != self.mean.shape[1]:
            raise ValueError(
                f"Normalized: got images of shape {list(images.shape)}, "
                f"takes [B,{self.mean.shape[1]},H,W]"
            )
        mean, std = self.mean.to(images.dtype), self.std.to(images.dtype)
        return self.model((images - mean) / std)

    def extra_repr(self) -> str:
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"
