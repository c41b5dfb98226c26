"""SPROUT in a plain PyTorch loop: two lines differ from natural training.

python docs/examples/plain_loop.py
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sprout_fast import SproutLoss, SproutMixup

NUM_CLASSES, EPOCHS = 4, 8
MEAN, STD = 0.5, 0.25


def made_up_images(count: int) -> TensorDataset:
    """Return uint8 images [N, 3, 16, 16] in which each class is a faint pattern in noise."""
    patterns = torch.rand(NUM_CLASSES, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(NUM_CLASSES, (count,))
    images = 0.5 * patterns[labels] + 0.5 * torch.rand(count, 3, 16, 16)
    return TensorDataset((255 * images).to(torch.uint8), labels)


def main() -> float:
    """Train a small network and return its accuracy on fresh images."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loader = DataLoader(made_up_images(512), batch_size=64, shuffle=True, drop_last=True)
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 64), nn.ReLU(), nn.Linear(64, NUM_CLASSES))
    model.to(device)

    # The mixer normalizes too, so the loader hands over plain uint8 images.
    mixer = SproutMixup(sigma=0.1, mixup_alpha=0.2, mean=MEAN, std=STD, device=device)
    loss_fn = SproutLoss(NUM_CLASSES, device=device)  # its beta is a buffer that updates itself
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    for epoch in range(EPOCHS):
        for images, labels in loader:
            inputs, target = mixer(images.to(device), labels.to(device))
            loss = loss_fn(model(inputs), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        mass = loss_fn.expected_true_mass().item()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, expected true-class mass {mass:.3f}")

    images, labels = (tensor.to(device) for tensor in made_up_images(256).tensors)
    inputs, _ = mixer.eval()(images, labels)  # in eval mode it only normalizes
    accuracy = (model(inputs).argmax(1) == labels).float().mean().item()
    print(f"accuracy {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
