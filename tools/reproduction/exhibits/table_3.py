"""Table 3: accuracy under attacks transferred from a natural model."""

from __future__ import annotations

import dataclasses

from reproduction.exhibits.base import EXHIBITS, Exhibit, Measured, paper_measurement
from reproduction.exhibits.trained import (
    BASELINES_CHOSEN,
    TRAINING_CHOSEN,
    compared,
    grid,
    steps_of,
)
from reproduction.scale import Scale
from sprout_fast.paper import VGG, WRN, published


@EXHIBITS.register("table 3")
def table_3(scale: Scale) -> Exhibit:
    cells, what = [], paper_measurement(scale, "transfer at 0.03")
    for network, name in (("vgg16", VGG), ("wrn34_10", WRN)):
        trained = compared(scale, network)
        for cell in grid(scale, published(3, name), trained):
            assert isinstance(cell.source, Measured)
            source = dataclasses.replace(cell.source, source=trained["natural"])
            cells.append(dataclasses.replace(cell, column=scale.label(network), source=source))
    return Exhibit(
        "table",
        3,
        "accuracy in percent under attacks transferred from the natural model, CIFAR-10, eps 0.03",
        scale,
        cells,
        ["vgg16", "wrn34_10"],
        chosen=[
            *TRAINING_CHOSEN,
            *BASELINES_CHOSEN,
            f"the attack is PGD with {steps_of(what)} steps of size eps/5 on the natural model of"
            " the same network, and continues after that model misclassifies an image; SPROUT is"
            " initialized from the same model",
        ],
        incomparable="the transferred attack and the natural model that it is computed on are not"
        " the paper's own",
    )
