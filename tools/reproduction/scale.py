"""What ``--scale`` makes of the paper's sizes, by rules that can be worked out in one's head."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduction.datasets import CIFAR, IMAGENET, DataSet
from reproduction.training import Training
from sprout_fast.errors import UserError
from sprout_fast.evaluation.protocols import PAPER_EPS, Setting
from sprout_fast.training.command import read_recipe

RULES = """\
--scale S in (0,1] shrinks the paper's sizes (S = 1) by these rules:

  training images, epochs   times the square root of S: together a training sees S times as many
  test images               times the square root of S
  attack steps, restarts    times the fourth root of S (PGD: at least 3 steps)
  batch                     128, smaller where an epoch would have fewer than 32 batches
  networks                  S >= 0.1: the paper's; S >= 0.01: ResNet-20 for VGG-16, WRN-16-4 for
                            WRN-34-10; below: ResNet-8 and WRN-10-1. ImageNet: below 0.1
                            ResNet-18, below 0.01 on 96 pixels

     S    training images x epochs   test images   PGD-20, PGD-100, 10 starts
     1             50,000 x 200           10,000      20, 100, 10
  0.01              5,000 x 20             1,000       6, 32, 3
 0.001              1,581 x 6                316       4, 18, 2
0.0001                500 x 2                100       3, 10, 1"""


#: By the paper's network: its name, and what stands for it from these scales on.
_NETWORKS = {
    "vgg16": ("VGG-16", ((0.1, "cifar_vgg16"), (0.01, "cifar_resnet20"), (0, "cifar_resnet8"))),
    "resnet152": ("ResNet-152", ((0.1, "resnet152"), (0, "resnet18"))),
    "resnet50": ("ResNet-50", ((0.1, "resnet50"), (0, "resnet18"))),
}
#: Of WRN-34-k: depth, widths and what a width of 10 becomes.
_WIDE = (
    (0.1, 34, (1, 2, 4, 5, 10), 10),
    (0.01, 16, (1, 2, 4, 5), 4),
    (0, 10, (1, 2, 4), 1),
)


@dataclass(frozen=True)
class Scale:
    """The sizes at one scale.

    Args:
        value: in (0,1].
        data, imagenet: the data sets, which trainings are known by.
        seed: of all trainings.
    """

    value: float
    data: Path | None = None
    imagenet: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.value <= 1:
            raise UserError(f"--scale {self.value:g}: takes a number above 0 up to 1")

    @property
    def is_full(self) -> bool:
        return self.value == 1

    def train_images(self, of: DataSet = CIFAR) -> int:
        """How many images a training sees in an epoch."""
        return self._rooted(of.train_images, of.fewest_images)

    def test_images(self, of: DataSet = CIFAR) -> int:
        """How many images are measured on."""
        return self._rooted(of.test_images, 10)

    def epochs(self, of: DataSet = CIFAR) -> int:
        """Passes over the training images."""
        return self._rooted(of.epochs, 1)

    def batch_size(self, of: DataSet = CIFAR) -> int:
        """A power of two, with which an epoch has at least 32 steps where that leaves 8 images."""
        wanted = max(8, self.train_images(of) // 32)
        return min(of.batch_size, 2 ** int(math.log2(wanted)))

    def image_size(self, of: DataSet = CIFAR) -> int:
        """Side of the images in pixels."""
        return 32 if of is CIFAR else 224 if self.value >= 0.01 else 96

    def _rooted(self, count: int, least: int) -> int:
        return max(least, round(count * math.sqrt(self.value)))

    @property
    def attack_scale(self) -> float:
        """What multiplies steps and restarts."""
        return self.value**0.25

    def setting(self, of: DataSet = CIFAR) -> Setting:
        """For the paper's protocol, to which ImageNet's attacks belong on larger images alone."""
        return Setting("linf", PAPER_EPS, image_size=self.image_size(of), scale=self.attack_scale)

    @property
    def widths(self) -> tuple[int, ...]:
        """Of Fig. 3."""
        return self._wide()[1]

    def arch(self, network: str) -> str:
        """What is trained where the paper has ``network``: vgg16, wrn34_K, resnet152, resnet50.

        >>> Scale(1).arch("wrn34_10"), Scale(0.001).arch("wrn34_10"), Scale(0.01).arch("vgg16")
        ('cifar_wrn34_10', 'cifar_wrn10_1', 'cifar_resnet20')
        """
        if network.startswith("wrn34_"):
            width = int(network.removeprefix("wrn34_"))
            depth, _, of_ten = self._wide()
            return f"cifar_wrn{depth}_{of_ten if width == 10 else width}"
        return next(arch for least, arch in _NETWORKS[network][1] if self.value >= least)

    def _wide(self) -> tuple[int, tuple[int, ...], int]:
        return next(rest for least, *rest in _WIDE if self.value >= least)

    def label(self, network: str) -> str:
        """The network's name in the table, with what stands for it.

        >>> Scale(1).label("vgg16"), Scale(0.001).label("vgg16")
        ('VGG-16', 'VGG-16 (resnet8)')
        """
        name, arch = network_name(network), self.arch(network)
        if arch.removeprefix("cifar_") == network:
            return name
        return f"{name} ({arch.removeprefix('cifar_')})"

    def train(
        self,
        network: str,
        method: str,
        *,
        of: DataSet = CIFAR,
        recipe: str | None = None,
        start: Training | None = None,
        epochs: int | None = None,
        **options: Any,
    ) -> Training:
        """A training of the paper at this scale.

        Args:
            network: as `arch` takes it.
            recipe: of ``sprout_fast/training/recipes``; ``options`` go before it.
            start: the run whose weights it begins from.
            epochs: instead of the scale's.
        """
        values = {} if recipe is None else read_recipe(recipe)
        values |= {"method": method, "arch": self.arch(network), "seed": self.seed}
        values |= {
            "data": _path(self.data if of is CIFAR else self.imagenet),
            "epochs": epochs or self.epochs(of),
            "batch_size": self.batch_size(of),
            "image_size": self.image_size(of),
        }
        values |= options
        count = None if self.is_full else self.train_images(of)
        return Training(of, tuple(sorted(values.items())), count, start)

    def lines(self, of: DataSet, networks: list[str]) -> list[str]:
        """What is smaller than in the paper, a line each."""
        if self.is_full:
            return []
        steps = self.setting(of).scaled
        lines = [
            f"training images {self.train_images(of):,} instead of {of.train_images:,}",
            f"epochs {self.epochs(of)} instead of {of.epochs}",
            f"test images {self.test_images(of):,} instead of {of.test_images:,}",
            f"attack steps and restarts times {self.attack_scale:.3g}: PGD-20 has {steps(20, 3)}"
            f" steps, PGD-100 {steps(100, 3)}, 10 random starts are {steps(10)}; each step is"
            " still eps/5",
        ]
        if self.batch_size(of) != of.batch_size:
            lines.append(f"batch {self.batch_size(of)} instead of {of.batch_size}")
        if of is IMAGENET and self.image_size(of) != 224:
            lines.append(f"images of {self.image_size(of)} pixels instead of 224")
        for network in networks:
            if self.arch(network).removeprefix("cifar_") != network:
                stand_in = self.arch(network).removeprefix("cifar_")
                lines.append(f"{stand_in} stands for {network_name(network)}")
        return lines


def network_name(network: str) -> str:
    """The paper's network as it is written.

    >>> network_name("wrn34_10")
    'WRN-34-10'
    """
    if network.startswith("wrn"):
        return network.replace("wrn", "WRN-").replace("_", "-")
    return _NETWORKS[network][0]


def _path(folder: Path | None) -> str | None:
    return None if folder is None else str(folder.resolve())
