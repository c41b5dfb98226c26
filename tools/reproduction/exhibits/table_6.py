"""Table 6: seconds for ten epochs."""

from __future__ import annotations

import dataclasses

from reproduction.exhibits.base import Exhibit, register
from reproduction.exhibits.trained import grid
from reproduction.scale import Scale
from sprout_fast.paper import VGG, WRN, published

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
    tables = {"vgg16": published(6, VGG), "wrn34_10": published(6, WRN)}
    return Exhibit(
        "table",
        6,
        "seconds of training for 10 epochs of CIFAR-10",
        scale,
        [
            dataclasses.replace(cell, column=scale.label(network))
            for network, table in tables.items()
            for cell in grid(scale, table, {}, arch=scale.arch(network))
        ],
        list(tables),
        chosen=TIMES_CHOSEN,
        footnotes=[TIMES_FOOTNOTE],
    )
