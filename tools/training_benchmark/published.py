"""The paper's training times: Table 6 (CIFAR-10, 10 epochs) and section 4.3's (ImageNet)."""

from __future__ import annotations

from sprout_fast.paper import TABLES

#: Seconds by network and row, on the authors' GPU: only ratios within a network compare.
PUBLISHED_SECONDS = {
    {"VGG-16": "vgg16", "Wide ResNet": "wrn34", "ResNet-152": "resnet152"}[table.network]: (
        table.column("seconds")
    )
    for table in TABLES
    if list(table.columns) == ["seconds"]
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
