"""Small networks to attack, trained on the spot."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sprout_fast.models import Normalized

SIZE = 16  # pixels


@functools.cache
def partly_robust() -> tuple[nn.Module, Tensor, Tensor]:
    """A network, 100 images [100,3,16,16] and their labels, of 10 classes.

    Of the images about nine in ten are classified correctly, and about half of those can be
    attacked at ``EPS``, so that a better or worse attack shows.
    """
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    patterns = F.interpolate(randn(10, 3, 4, 4), SIZE, mode="bilinear") * 0.1

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(10, (count,), generator=generator)
        images = 0.5 + patterns[labels] * (0.4 + 0.3 * randn(count, 1, 1, 1).abs())
        return (images + 0.2 * randn(count, 3, SIZE, SIZE)).clamp(0, 1), labels

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 16, 10),
        )
    model = Normalized(net, [0.5] * 3, [0.25] * 3).eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(100):
        images, labels = draw(64)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    model.requires_grad_(False)
    return model, *draw(100)


# Radii at which the attacks succeed on between 20 and 80 % of these images.
EPS = {"linf": 0.02, "l2": 0.4}


def errs(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Where the model errs: bool [B]."""
    with torch.no_grad():
        return model(images).argmax(1) != labels
