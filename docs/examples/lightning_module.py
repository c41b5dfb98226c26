"""SPROUT as a LightningModule: mixer and loss are submodules, saved in its checkpoints.

pip install lightning
python docs/examples/lightning_module.py
"""

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sprout_fast import SproutLoss, SproutMixup


class SproutClassifier(lightning.LightningModule):
    """A classifier of uint8 images [B, 3, H, W]; ``network`` maps normalized images to logits."""

    def __init__(self, network: nn.Module, num_classes: int, lr: float = 0.05) -> None:
        super().__init__()
        self.network, self.lr = network, lr
        self.mixer = SproutMixup(sigma=0.1, mixup_alpha=0.2, mean=0.5, std=0.25)
        self.loss_fn = SproutLoss(num_classes)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        inputs, target = self.mixer(*batch)
        loss = self.loss_fn(self.network(inputs), target)
        self.log("true_class_mass", self.loss_fn.expected_true_mass())
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        inputs, _ = self.mixer(*batch)  # in eval mode it only normalizes
        logits = self.network(inputs)
        self.log("val_loss", F.cross_entropy(logits, batch[1]))
        self.log("val_acc", (logits.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.network.parameters(), lr=self.lr, momentum=0.9)


def main(**trainer_options) -> SproutClassifier:
    """Train on made-up images and return the module."""
    lightning.seed_everything(0)
    labels = torch.randint(4, (256,))
    images = torch.randint(128, (256, 3, 16, 16)) + 32 * labels.view(-1, 1, 1, 1)
    data = TensorDataset(images.to(torch.uint8), labels)
    module = SproutClassifier(nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), num_classes=4)
    trainer = lightning.Trainer(max_epochs=2, accelerator="auto", devices=1, **trainer_options)
    trainer.fit(module, DataLoader(data, 32, shuffle=True), DataLoader(data, 32))
    return module


if __name__ == "__main__":
    main()
