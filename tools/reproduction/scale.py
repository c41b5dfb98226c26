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

    def epochs(self, dataset: DataSet = CIFAR) -> int:
        """Return the number of epochs."""
        return self._rooted(dataset.epochs, 1)

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

    def label(self, network: str) -> str:
        """Return the network's name, followed by its replacement if there is one.

        >>> Scale(1).label("vgg16"), Scale(0.001).label("vgg16")
        ('VGG-16', 'VGG-16 (cifar_resnet8)')
        """
        name, arch = network_name(network), self.arch(network)
        if arch.removeprefix("cifar_") == network:
            return name
        return f"{name} ({arch})"

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
            epochs: overrides the scale's number of epochs.
            **options: options of the run, which override all others.
        """
        values = {} if recipe is None else read_recipe(recipe)
        values |= {"method": method, "arch": self.arch(network), "seed": self.seed}
        values |= {
            "data": _path(self.data if dataset is CIFAR else self.imagenet),
            "epochs": epochs or self.epochs(dataset),
            "batch_size": self.batch_size(dataset),
            "image_size": self.image_size(dataset),
        }
        values |= options
        count = None if self.is_full else self.train_images(dataset)
        return Training(dataset, tuple(sorted(values.items())), count, start)

    def lines(self, dataset: DataSet, networks: list[str]) -> list[str]:
        """Return one line for each size that differs from the paper's."""
        if self.is_full:
            return []
        steps = self.setting(dataset).scaled
        lines = [
            f"{self.train_images(dataset):,} training images instead of {dataset.train_images:,}",
            f"epochs: {self.epochs(dataset)} instead of {dataset.epochs}",
            f"{self.test_images(dataset):,} test images instead of {dataset.test_images:,}",
            f"attack steps and restarts times {self.attack_scale:.3g}: PGD-20 has {steps(20, 3)}"
            f" steps, PGD-100 has {steps(100, 3)}, 10 random starts become {steps(10)}; the step"
            " size is still eps/5",
        ]
        if self.batch_size(dataset) != dataset.batch_size:
            lines.append(f"batch size {self.batch_size(dataset)} instead of {dataset.batch_size}")
        if dataset is IMAGENET and self.image_size(dataset) != 224:
            lines.append(f"images of {self.image_size(dataset)} pixels instead of 224")
        for network in networks:
            if self.arch(network).removeprefix("cifar_") != network:
                lines.append(f"{self.arch(network)} instead of {network_name(network)}")
        return lines


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
