"""The paper's training times: Table 6 (CIFAR-10, 10 epochs) and section 4.3's (ImageNet)."""

from __future__ import annotations

#: Seconds by network and row, on the authors' GPU: only ratios within a network compare.
PUBLISHED_SECONDS = {
    "vgg16": {
        "natural": 146.7,
        "pgd_at": 1327.1,
        "trades": 1932.5,
        "free_at": 2053.1,
        "sprout": 271.7,
    },
    "wrn34": {
        "natural": 1449.6,
        "pgd_at": 14246.1,
        "trades": 22438.4,
        "free_at": 20652.5,
        "sprout": 2727.8,
    },
    "resnet152": {"natural": 31158.7, "sprout": 59201.6},
}


def published_ratio(arch: str, row: str) -> float | None:
    """The paper's time of a row over natural training's, on the network most like ``arch``.

    Its SPROUT is Algorithm 1 with a back-propagation of its own for beta, so the row
    ``sprout, two passes`` has the same figure.

    >>> round(published_ratio("cifar_vgg16", "sprout"), 2)
    1.85
    """
    name = arch.removeprefix("cifar_")
    for network, seconds in PUBLISHED_SECONDS.items():
        if name.startswith(network):
            taken = seconds.get(row.removesuffix(", two passes"))
            return None if taken is None else taken / seconds["natural"]
    return None
