"""The paper's sizes at a smaller scale; ``options.RULES`` states the rules for users."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduction.datasets import CIFAR, IMAGENET, DataSet
from reproduction.training import Training
from sprout_fast.evaluation.protocols import PAPER_EPS, Setting
from sprout_fast.training.command import read_recipe

#: Display name of each of the paper's networks, and what replaces it from which scale on.
_NETWORKS = {
    "vgg16": ("VGG-16", ((0.1, "cifar_vgg16"), (0.01, "cifar_resnet20"), (0, "cifar_resnet8"))),
    "resnet152": ("ResNet-152", ((0.1, "resnet152"), (0, "resnet18"))),
    "resnet50": ("ResNet-50", ((0.1, "resnet50"), (0, "resnet18"))),
}
#: For WRN-34-k: from which scale on, the depth, the widths, and the width that replaces 10.
_WIDE = (
    (0.1, 34, (1, 2, 4, 5, 10), 10),
    (0.01, 16, (1, 2, 4, 5), 4),
    (0, 10, (1, 2, 4), 1),
)


@dataclass(frozen=True)
class Scale:
    """All sizes at one scale.

    Args:
        value: in (0,1].
        data, imagenet: the data sets; they are part of a training's identity.
        seed: seed of all trainings.
    """

    value: float
    data: Path | None = None
    imagenet: Path | None = None
    seed: int = 0

    @property
    def is_full(self) -> bool:
        """Whether this is the paper's size."""
        return self.value == 1

    def train_images(self, dataset: DataSet = CIFAR) -> int:
        """Return the number of training images."""
        return self._rooted(dataset.train_images, dataset.fewest_images)

    def test_images(self, dataset: DataSet = CIFAR) -> int:
        """Return the number of test images."""
        return self._rooted(dataset.test_images, 10)

    def batch_size(self, dataset: DataSet = CIFAR) -> int:
        """Return a power of two from 8 up that leaves at least 32 batches per epoch if possible."""
        wanted = max(8, self.train_images(dataset) // 32)
        return min(dataset.batch_size, 2 ** int(math.log2(wanted)))

    def image_size(self, dataset: DataSet = CIFAR) -> int:
        """Return the image height and width in pixels."""
        return 32 if dataset is CIFAR else 224 if self.value >= 0.01 else 96

    def _rooted(self, count: int, least: int) -> int:
        return max(least, round(count * math.sqrt(self.value)))

    @property
    def attack_scale(self) -> float:
        """Factor for the number of attack steps and restarts."""
        return self.value**0.25

    def setting(self, dataset: DataSet = CIFAR) -> Setting:
        """Return the setting of the paper's protocol, which attacks ImageNet differently."""
        return Setting(
            "linf", PAPER_EPS, image_size=self.image_size(dataset), scale=self.attack_scale
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the networks in Figure 3."""
        return self._wide()[1]

    def arch(self, network: str) -> str:
        """Return the arch to train for the paper's vgg16, wrn34_K, resnet152 or resnet50.

        >>> Scale(1).arch("wrn34_10"), Scale(0.001).arch("wrn34_10"), Scale(0.01).arch("vgg16")
        ('cifar_wrn34_10', 'cifar_wrn10_1', 'cifar_resnet20')
        """
        if network.startswith("wrn34_"):
            width = int(network.removeprefix("wrn34_"))
            depth, _, of_ten = self._wide()
            return f"cifar_wrn{depth}_{of_ten if width == 10 else width}"
        return next(arch for least, arch in _NETWORKS[network][1] if self.value >= least)

    def _wide(self) -> tuple[int, tuple[int, ...], int]:
        return next(
            (depth, widths, of_ten) for least, depth, widths, of_ten in _WIDE if self.value >= least
        )

    @property
    def wide_name(self) -> str:
        """Name of the networks of Figure 3 without their width, e.g. ``"WRN-34"``."""
        return f"WRN-{self._wide()[0]}"

    def label(self, network: str) -> str:
        """Return the name of the network, and before it the one that stands in for it, if any.

        >>> Scale(1).label("vgg16"), Scale(0.001).label("vgg16")
        ('VGG-16', 'cifar_resnet8 for VGG-16')
        """
        name, arch = network_name(network), self.arch(network)
        return name if arch.removeprefix("cifar_") == network else f"{arch} for {name}"

    def train(
        self,
        network: str,
        method: str,
        *,
        dataset: DataSet = CIFAR,
        recipe: str | None = None,
        start: Training | None = None,
        epochs: int | None = None,
        **options: Any,
    ) -> Training:
        """Return one of the paper's trainings at this scale.

        Args:
            network: see ``arch``.
            method: name of the training method.
            dataset: data set to train on.
            recipe: one of ``sprout_fast/training/recipes``.
            start: training whose final weights are the initial weights.
            epochs: at scale 1; by default those of the recipe or else of the data set.
            **options: options of the run, which override all others.
        """
        on_imagenet = dataset is IMAGENET and start is not None
        values = {} if recipe is None else read_recipe(recipe, imagenet_weights=on_imagenet)
        values |= {"method": method, "arch": self.arch(network), "seed": self.seed}
        values |= {
            "data": _path(self.data if dataset is CIFAR else self.imagenet),
            "epochs": self._rooted(epochs or values.get("epochs", dataset.epochs), 1),
            "batch_size": self.batch_size(dataset),
            "image_size": self.image_size(dataset),
        }
        values |= options
        count = None if self.is_full else self.train_images(dataset)
        return Training(dataset, tuple(sorted(values.items())), count, start)


def network_name(network: str) -> str:
    """Return the display name of one of the paper's networks.

    >>> network_name("wrn34_10")
    'WRN-34-10'
    """
    if network.startswith("wrn"):
        return network.replace("wrn", "WRN-").replace("_", "-")
    return _NETWORKS[network][0]


def _path(folder: Path | None) -> str | None:
    return None if folder is None else str(folder.resolve())
