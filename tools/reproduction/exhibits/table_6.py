"""Table 6: training time for ten epochs."""

from __future__ import annotations

import dataclasses

from reproduction.exhibits.base import EXHIBITS, Exhibit
from reproduction.exhibits.trained import IMAGENET_TIMES, grid, notes_of
from reproduction.scale import Scale
from sprout_fast.paper import VGG, WRN, published

TIMES_FOOTNOTE = (
    "the paper's SPROUT makes a second forward and backward pass for beta, which sprout_fast does"
    " not need"
)


@EXHIBITS.register("table 6")
def table_6(scale: Scale) -> Exhibit:
    tables = {"vgg16": published(6, VGG), "wrn34_10": published(6, WRN)}
    return Exhibit(
        "table",
        6,
        "seconds of training for 10 epochs of CIFAR-10's size",
        scale,
        [
            dataclasses.replace(cell, column=scale.label(network))
            for network, table in tables.items()
            for cell in grid(scale, table, {}, arch=scale.arch(network))
        ],
        list(tables),
        incomparable="only the ratios within a column are: the paper's seconds are those of its"
        " authors' GPU",
        footnotes=[TIMES_FOOTNOTE, *notes_of(IMAGENET_TIMES)],
    )
