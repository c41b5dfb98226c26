"""The numbers of the SPROUT paper (Cheng et al., AAAI 2021), and how to measure their counterparts.

They are quoted without changes. Notes point out where the paper contradicts itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CIFAR10, IMAGENET = "CIFAR-10", "ImageNet"
VGG, WRN, UNSPECIFIED = "VGG-16", "Wide ResNet", "unspecified network"

#: The paper's names of the methods, by the keys of ``sprout_fast.methods.METHODS``.
METHOD_NAMES = {
    "natural": "natural",
    "pgd_at": "adversarial training",
    "trades": "TRADES",
    "free_at": "Free adversarial training",
    "sprout": "SPROUT",
}


@dataclass(frozen=True)
class PublishedTable:
    """One of the paper's tables, for one network.

    Args:
        table: number of the table; None if the numbers are in the text.
        dataset: data set of the numbers.
        network: network of the numbers.
        what: what the numbers are, with their unit.
        columns: for each heading its counterpart in the protocol ``paper``: a measurement's name,
            ``"NAME: COLUMN"`` for the mean of one of its columns, or None.
        rows: numbers of each column by method, a key of ``METHOD_NAMES`` or a description.
        percent: whether the numbers are percentages.
        notes: contradictions within this table or with others.
    """

    table: int | None
    dataset: str
    network: str
    what: str
    columns: Mapping[str, str | None]
    rows: Mapping[str, tuple[float, ...]]
    percent: bool = True
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """``"Table N"``, or ``"Text"``."""
        return "Text" if self.table is None else f"Table {self.table}"

    def column(self, heading: str) -> dict[str, float]:
        """Return one column, by method."""
        place = list(self.columns).index(heading)
        return {method: values[place] for method, values in self.rows.items()}


_PGD = {
    "clean": "clean",
    "PGD-20": "PGD-20 at 0.03",
    "PGD-100": "PGD-100 at 0.03",
    "PGD-200": "PGD-200 at 0.03",
    "10x PGD-100": "10x PGD-100 at 0.03",
}
_RANDOM_TARGET = {"clean": "clean"} | {
    f"eps {eps:g}": f"random-target PGD-20 at {eps:g}" for eps in (0.005, 0.01, 0.015, 0.02)
}
_WHITE_BOX = "accuracy in %, clean and under PGD, l-inf, eps 0.03, step size eps/5"
_TRANSFER = "accuracy in % under attacks made on a naturally trained model"
_TARGETED = "accuracy in %, clean and under PGD toward a random target class, l-inf"
_SECONDS = "seconds for 10 epochs of training, on the authors' GPU"

TABLES = (
    PublishedTable(
        2,
        CIFAR10,
        VGG,
        _WHITE_BOX,
        _PGD,
        {
            "natural": (93.34, 0.6, 0.1, 0.0, 0.0),
            "pgd_at": (80.32, 36.63, 36.29, 36.01, 36.8),
            "trades": (84.85, 38.81, 38.21, 37.95, 37.94),
            "sprout": (89.15, 62.24, 58.93, 57.9, 58.08),
        },
        notes=(
            "SPROUT's PGD-20 is 62.24 here and 62.64 in the paper's Table 7.",
            "adversarial training has a higher accuracy under ten restarts of PGD-100 (36.8) than "
            "under one (36.29).",
        ),
    ),
    PublishedTable(
        2,
        CIFAR10,
        WRN,
        _WHITE_BOX,
        _PGD,
        {
            "natural": (95.93, 0.0, 0.0, 0.0, 0.0),
            "pgd_at": (87.25, 45.91, 45.32, 45.02, 44.98),
            "trades": (84.92, 56.23, 56.13, 55.96, 56.01),
            "sprout": (90.56, 66.23, 64.58, 64.30, 64.32),
        },
        notes=(
            "SPROUT's 10x PGD-100 is 64.32 here and 61.18 in the paper's text.",
            'the paper calls the network "Wide-ResNet 20", its Fig. 3 has widths of ResNet-34, '
            "and the authors' code WRN-34-10.",
        ),
    ),
    PublishedTable(
        None,
        CIFAR10,
        UNSPECIFIED,
        "accuracy in % under C&W, l2 up to 0.05, 10 binary searches of 1000 steps",
        {"C&W l2": "C&W-l2 at 0.05"},
        {"pgd_at": (77.76,), "trades": (82.58,), "sprout": (85.21,)},
        notes=("Table 8 has other numbers for C&W: 70.13, 75.08 and 72.7.",),
    ),
    PublishedTable(
        3,
        CIFAR10,
        VGG,
        _TRANSFER,
        {"transfer": "transfer at 0.03"},
        {"pgd_at": (79.13,), "trades": (83.53,), "sprout": (86.28,)},
    ),
    PublishedTable(
        3,
        CIFAR10,
        WRN,
        _TRANSFER,
        {"transfer": "transfer at 0.03"},
        {"pgd_at": (85.84,), "trades": (83.9,), "sprout": (89.1,)},
    ),
    PublishedTable(
        4,
        IMAGENET,
        "ResNet-152",
        _TARGETED,
        _RANDOM_TARGET,
        {
            "natural": (78.31, 37.13, 9.14, 2.12, 0.78),
            "sprout": (74.23, 65.24, 52.86, 35.04, 12.18),
        },
    ),
    PublishedTable(
        5,
        CIFAR10,
        WRN,
        "accuracy in % under transformations that preserve the class",
        {
            "rotation 10°": "rotation 10°",
            "brightness x 1.5": "brightness x 1.5",
            "contrast x 2": "contrast x 2",
            "gray": "gray",
        },
        {
            "natural": (88.21, 93.4, 91.88, 91.95),
            "pgd_at": (82.66, 83.64, 84.99, 81.08),
            "trades": (80.81, 81.5, 83.08, 79.27),
            "sprout": (85.95, 88.26, 86.98, 81.64),
        },
    ),
    PublishedTable(
        6,
        CIFAR10,
        VGG,
        _SECONDS,
        {"seconds": None},
        {
            "natural": (146.7,),
            "pgd_at": (1327.1,),
            "trades": (1932.5,),
            "free_at": (2053.1,),
            "sprout": (271.7,),
        },
        percent=False,
    ),
    PublishedTable(
        6,
        CIFAR10,
        WRN,
        _SECONDS,
        {"seconds": None},
        {
            "natural": (1449.6,),
            "pgd_at": (14246.1,),
            "trades": (22438.4,),
            "free_at": (20652.5,),
            "sprout": (2727.8,),
        },
        percent=False,
    ),
    PublishedTable(
        None,
        IMAGENET,
        "ResNet-152",
        "seconds of training, on the authors' GPU",
        {"seconds": None},
        {"natural": (31158.7,), "sprout": (59201.6,)},
        percent=False,
    ),
    PublishedTable(
        7,
        CIFAR10,
        VGG,
        "accuracy in % of SPROUT's modules under PGD, l-inf, eps 0.03",
        {"PGD-20": "PGD-20 at 0.03", "PGD-100": "PGD-100 at 0.03"},
        {
            "GA": (12.44, 9.46),
            "Mixup": (0.76, 0.08),
            "Dirichlet": (29.64, 9.77),
            "GA + Mixup": (41.88, 40.29),
            "Mixup + Dirichlet": (17.53, 7.97),
            "GA + Dirichlet": (55.27, 53.79),
            "uniform label smoothing": (15.36, 5.12),
            "sprout": (62.64, 58.93),
        },
        notes=("SPROUT's PGD-20 is 62.64 here and 62.24 in the paper's Table 2.",),
    ),
    PublishedTable(
        8,
        CIFAR10,
        VGG,
        "accuracy in % (l-inf: PGD-100, eps 0.03) and training time, as in the radar of Fig. 1",
        {
            "clean": "clean",
            "l-inf": "PGD-100 at 0.03",
            "C&W l2": "C&W-l2 at 0.05",
            "contrast x 2": "contrast x 2",
            "seconds": None,
        },
        {
            "natural": (95.93, 0.0, 26.95, 91.88, 146.7),
            "pgd_at": (84.92, 36.29, 70.13, 84.99, 1327.1),
            "trades": (88.6, 38.29, 75.08, 83.08, 1932.5),
            "sprout": (90.56, 58.93, 72.7, 86.98, 271.7),
        },
        notes=(
            "The table is labeled VGG-16, but the clean accuracy of natural training and of SPROUT "
            "and the whole contrast column are those of the Wide ResNet (Tables 2 and 5). The "
            "clean accuracy of adversarial training, 84.92, is that of TRADES there; 88.6 for "
            "TRADES is in neither table.",
        ),
    ),
    PublishedTable(
        9,
        CIFAR10,
        WRN,
        "accuracy in % under PGD-20, l-inf, eps 0.03, by number of random starts",
        {
            "1 start": "PGD-20 at 0.03",
            "3 starts": "3x PGD-20 at 0.03",
            "5 starts": "5x PGD-20 at 0.03",
            "8 starts": "8x PGD-20 at 0.03",
            "10 starts": "10x PGD-20 at 0.03",
        },
        {
            "pgd_at": (45.88, 45.67, 45.52, 45.52, 45.21),
            "trades": (57.02, 56.84, 56.77, 56.7, 56.7),
            "sprout": (64.58, 62.53, 61.98, 61.38, 61.00),
        },
        notes=("SPROUT's PGD-20 from one start is 64.58 here and 66.23 in Table 2.",),
    ),
    PublishedTable(
        None,
        CIFAR10,
        WRN,
        "accuracy in % under PGD-100 from 10 random starts, l-inf, eps 0.03",
        {"10 starts of 100 steps": "10x PGD-100 at 0.03"},
        {"sprout": (61.18,)},
        notes=("Table 2 has 64.32.",),
    ),
    PublishedTable(
        10,
        IMAGENET,
        "ResNet-50",
        _TARGETED,
        _RANDOM_TARGET,
        {
            "natural": (76.15, 24.37, 3.54, 0.90, 0.40),
            "free_at": (60.49, 51.35, 42.29, 32.96, 24.45),
            "sprout": (61.23, 51.69, 38.14, 25.98, 18.52),
        },
    ),
    PublishedTable(
        11,
        CIFAR10,
        UNSPECIFIED,
        "mean cosine similarity of the input gradients under two of SPROUT's modules",
        {
            "Dirichlet and Mixup": "diversity: dirichlet_mixup",
            "Dirichlet and GA": "diversity: dirichlet_ga",
            "Mixup and GA": "diversity: mixup_ga",
        },
        {"sprout": (0.1023, 0.0163, 0.0111)},
        percent=False,
    ),
)


def published(table: int | None, network: str) -> PublishedTable:
    """Return a table of the paper for one network.

    Args:
        table: number of the table; None for numbers in the text.
        network: name of the network, e.g. :data:`VGG`.

    Raises:
        ValueError: there is no such table, or more than one.

    >>> published(9, WRN).column("3 starts")["sprout"]
    62.53
    """
    (found,) = (one for one in TABLES if (one.table, one.network) == (table, network))
    return found
