"""Table 5: accuracy under transformations that preserve the class."""

from __future__ import annotations

from reproduction.exhibits.base import EXHIBITS, Exhibit
from reproduction.exhibits.trained import (
    BASELINES_CHOSEN,
    TRAINING_CHOSEN,
    compared,
    grid,
)
from reproduction.scale import Scale
from sprout_fast.paper import WRN, published

NETWORK = "wrn34_10"


@EXHIBITS.register("table 5")
def table_5(scale: Scale) -> Exhibit:
    return Exhibit(
        "table",
        5,
        f"accuracy in percent on transformed images, {scale.label(NETWORK)}, CIFAR-10",
        scale,
        grid(scale, published(5, WRN), compared(scale, NETWORK)),
        [NETWORK],
        chosen=[
            *TRAINING_CHOSEN,
            *BASELINES_CHOSEN,
            "rotation is counterclockwise and bilinear with black corners; brightness and contrast"
            " are adjusted as in torchvision",
        ],
        incomparable="the interpolation of the rotation and the clipping to [0, 1] are choices",
    )
