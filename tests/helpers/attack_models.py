"""A network of ten classes to attack, trained in a second, and images like those it learnt from."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 10


def draw_images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """float32 [count,3,8,8] in [0,1], each class a faint pattern under noise, and labels."""
    patterns = torch.randn(CLASSES, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.08
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    noise = torch.randn(count, 3, 8, 8, generator=generator) * 0.15
    return (0.5 + patterns[labels] + noise).clamp(0, 1), labels


@cache
def trained_model() -> nn.Module:
    """In eval mode, about 98 % right. Shared: leave it as it is."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(144, CLASSES),
        )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(150):
        images, labels = draw_images(128, seed=1000 + step)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.eval()


class Scaled(nn.Module):
    """A model's logits times a factor."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, images: Tensor) -> Tensor:
        return self.factor * self.model(images)


def errs(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """bool [B]"""
    with torch.no_grad():
        return model(images).argmax(1) != labels
