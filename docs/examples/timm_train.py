"""SPROUT in timm's training loop: its Mixup and its loss are replaced, all else is timm's.

python docs/examples/timm_train.py
"""

import timm
import torch
from timm.data import create_loader, resolve_data_config
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import nn
from torchvision.datasets import FakeData

from sprout_fast import SproutLoss, SproutMixup

NUM_CLASSES, EPOCHS, SIZE = 10, 2, (3, 64, 64)


def main() -> nn.Module:
    """Train a tiny ResNet of timm's on random images and return it."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=NUM_CLASSES)
    config = resolve_data_config(model=model)
    mean, std = config["mean"], config["std"]
    loader = create_loader(
        FakeData(64, SIZE, NUM_CLASSES),
        SIZE,
        batch_size=16,
        is_training=True,
        mean=mean,
        std=std,
        use_prefetcher=False,
        num_workers=0,
        persistent_workers=False,
    )
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.05, momentum=0.9, weight_decay=1e-4)
    scheduler, _ = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=EPOCHS, updates_per_epoch=len(loader)
    )

    # Instead of timm.data.Mixup. timm's loader normalizes, so sigma is converted to its units.
    mixer = SproutMixup(sigma=0.1, mixup_alpha=0.2, input_normalized_by=(mean, std))
    loss_fn = SproutLoss(NUM_CLASSES)  # instead of SoftTargetCrossEntropy

    for epoch in range(EPOCHS):
        model.train()
        for images, labels in loader:
            inputs, target = mixer(images, labels)
            loss = loss_fn(model(inputs), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step(epoch + 1)
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
    return model


if __name__ == "__main__":
    main()
