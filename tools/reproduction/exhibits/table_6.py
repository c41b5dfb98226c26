"""Table 6: training time for ten epochs."""

from __future__ import annotations

import dataclasses

from reproduction.exhibits.base import EXHIBITS, Exhibit
from reproduction.exhibits.trained import grid
from reproduction.scale import Scale
from sprout_fast.paper import VGG, WRN, published

TIMES_CHOSEN = [
    "seconds are those of a training step with 128 images of 32 pixels, times the steps of 10"
    " epochs of 50,000 images; no whole training is run for them (see tools/benchmark_training.py)",
    "adversarial training makes 7 attack steps, TRADES 10, and Free 8 replays of each batch",
]
TIMES_FOOTNOTE = (
    "the paper's seconds were measured on its authors' GPU, so only ratios within a column compare;"
    " its SPROUT makes a second forward and backward pass for beta, which sprout_fast does not need"
)


@EXHIBITS.register("table 6")
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
