"""Table 3: attacks transferred from a natural model."""

from __future__ import annotations

import dataclasses

from reproduction.exhibits.base import Exhibit, register
from reproduction.exhibits.trained import (
    BASELINES_CHOSEN,
    TRAINING_CHOSEN,
    compared,
    grid,
)
from reproduction.scale import Scale
from sprout_fast.paper import VGG, WRN, published


@register("table", 3)
def table_3(scale: Scale) -> Exhibit:
    cells = []
    for network, name in (("vgg16", VGG), ("wrn34_10", WRN)):
        trained = compared(scale, network)
        for cell in grid(scale, published(3, name), trained):
            source = dataclasses.replace(cell.source, source=trained["natural"])
            cells.append(dataclasses.replace(cell, column=scale.label(network), source=source))
    return Exhibit(
        "table",
        3,
        "accuracy in percent under attacks made on the natural model, CIFAR-10, eps 0.03",
        scale,
        cells,
        ["vgg16", "wrn34_10"],
        chosen=[
            *TRAINING_CHOSEN,
            *BASELINES_CHOSEN,
            "the attack is PGD-100 of steps of eps/5 on the natural model of the same network,"
            " whose images stay in the attack after it errs at them; SPROUT starts from that model",
        ],
    )
