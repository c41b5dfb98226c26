"""A user's script: the type checker accepts it (``make lint``), and it runs (test_types.py)."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sprout_fast
from sprout_fast import SproutLoss, SproutMixup, evaluate, load_model


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    mixup = SproutMixup(sigma=0.1, mixup_alpha=0.2, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    criterion = SproutLoss(num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in DataLoader(TensorDataset(images, labels), batch_size=16):
        mixed, target = mixup(*batch)
        loss = criterion(model(mixed), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(criterion.expected_true_mass())


def main(checkpoint: str = "run/best.pt") -> None:
    images, labels = torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8), torch.arange(64) % 10
    print(train(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), images, labels))

    state = sprout_fast.PhiloxState(0).next()
    target = sprout_fast.dirichlet(torch.full((64, 10), 0.1), state)
    mixed = sprout_fast.gaussian_mixup(images, None, None, state, sigma=0.1)
    print(sprout_fast.generalized_cross_entropy(mixed.flatten(1)[:, :10], target).item())

    results = evaluate(load_model(checkpoint), images[:4], labels[:4], eps=8 / 255, scale=0.01)
    print(results.clean_accuracy, results.robust_accuracy, results.save("report"))


if __name__ == "__main__":
    main()
