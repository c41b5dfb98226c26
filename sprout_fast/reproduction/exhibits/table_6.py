"""Table 6: seconds for ten epochs."""

from __future__ import annotations

from sprout_fast.benchmark.published import PUBLISHED_SECONDS
from sprout_fast.reproduction.exhibits.base import (
    METHOD_NAMES,
    Cell,
    Exhibit,
    Timed,
    register,
)
from sprout_fast.reproduction.scale import Scale

NETWORKS = {"vgg16": "vgg16", "wrn34_10": "wrn34"}  # and as `PUBLISHED_SECONDS` calls them
TIMES_CHOSEN = [
    "seconds are a training step's at batch 128 on 32 pixels, times the steps of 10 epochs of"
    " 50,000 images; nothing is trained for them. tools/benchmark_training.py says more of them",
    "adversarial training has 7 attack steps, TRADES 10, Free 8 replays of each batch",
]
TIMES_FOOTNOTE = (
    "the paper's seconds are its authors' GPU's: only ratios within a column compare; its SPROUT"
    " goes through the network a second time for beta, this project's does not"
)


@register("table", 6)
def table_6(scale: Scale) -> Exhibit:
    return Exhibit(
        "table",
        6,
        "seconds of training for 10 epochs of CIFAR-10",
        scale,
        [
            Cell(
                METHOD_NAMES[method],
                scale.label(network),
                Timed(scale.arch(network), method),
                seconds,
            )
            for network, column in NETWORKS.items()
            for method, seconds in PUBLISHED_SECONDS[column].items()
        ],
        list(NETWORKS),
        chosen=TIMES_CHOSEN,
        footnotes=[TIMES_FOOTNOTE],
    )
