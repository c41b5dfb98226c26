"""Images of ten made-up classes and small networks that learn them in seconds, for attacks."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sprout_fast.attacks.pgd import pgd

EPS = 0.04
SIDE = 8


def made_images(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Float32 [count,3,8,8] in [0,1] and int64 [count]: a class's own soft pattern in noise."""
    patterns = torch.Generator().manual_seed(42)
    coarse = torch.rand(10, 3, 3, 3, generator=patterns)
    pattern = F.interpolate(coarse, SIDE, mode="bilinear", align_corners=True)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 10
    noise = torch.randn(count, 3, SIDE, SIDE, generator=generator)
    strength = 0.15 + 0.35 * torch.rand(count, 1, 1, 1, generator=generator)
    images = 0.5 + strength * (pattern[labels] - 0.5) + 0.08 * noise
    return images.clamp(0, 1), labels


@functools.cache
def trained(adversarially: bool) -> nn.Module:
    """A small convolutional network in eval mode, trained naturally or by PGD."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * (SIDE // 2) ** 2, 10),
        )
        images, labels = made_images(2000, seed=1)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for step in range(150):
            rows = torch.arange(step * 100, step * 100 + 100) % len(labels)
            batch, target = images[rows], labels[rows]
            if adversarially:
                batch = pgd(
                    model,
                    batch,
                    target,
                    eps=EPS,
                    step_size=EPS / 2,
                    steps=4,
                    loss="margin",
                    early_stop=False,
                )
            optimizer.zero_grad()
            F.cross_entropy(model(batch), target).backward()
            optimizer.step()
    return model.eval()
