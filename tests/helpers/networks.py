"""Images of ten made-up classes and small networks that learn them in seconds."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sprout_fast.attacks.pgd import pgd

CLASSES = 10
SIDE = 8  # pixels
EPS = 0.04  # l-inf radius of adversarial training
# Radii at which attacks succeed on about half, and on about a third, of the images of `victim`.
HALF_EPS = {"linf": 0.027, "l2": 0.3, "l1": 1.6}
THIRD_EPS = {"linf": 0.02, "l2": 0.25, "l1": 1.2}


def made_images(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return images, a soft pattern per class in noise, and labels.

    Returns:
        float32 [count,3,8,8] in [0,1], and int64 [count], every class equally often.
    """
    patterns = torch.Generator().manual_seed(42)
    coarse = torch.rand(CLASSES, 3, 3, 3, generator=patterns)
    pattern = F.interpolate(coarse, SIDE, mode="bilinear", align_corners=True)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    noise = torch.randn(count, 3, SIDE, SIDE, generator=generator)
    strength = 0.15 + 0.35 * torch.rand(count, 1, 1, 1, generator=generator)
    images = 0.5 + strength * (pattern[labels] - 0.5) + 0.08 * noise
    return images.clamp(0, 1), labels


@functools.cache
def trained(adversarially: bool) -> nn.Module:
    """Return a convolutional network in eval mode, trained naturally or by PGD.

    It is shared by all tests of a process and must not be changed.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * (SIDE // 2) ** 2, CLASSES),
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


def victim(count: int = 100, seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    """Return the naturally trained network, and images with labels of which it knows nearly all."""
    return trained(adversarially=False), *made_images(count, seed)


class Scaled(nn.Module):
    """A model's logits times a factor."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, images: Tensor) -> Tensor:
        return self.factor * self.model(images)


def errs(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return whether the model misclassifies each image, bool [B]."""
    with torch.no_grad():
        return model(images).argmax(1) != labels
