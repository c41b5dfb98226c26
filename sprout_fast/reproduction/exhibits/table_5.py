"""Table 5: accuracy under transformations that leave the class as it is."""

from __future__ import annotations

from sprout_fast.reproduction import published
from sprout_fast.reproduction.exhibits.base import Exhibit, of_protocol, register
from sprout_fast.reproduction.exhibits.trained import (
    BASELINES_CHOSEN,
    TRAINING_CHOSEN,
    compared,
    grid,
)
from sprout_fast.reproduction.scale import Scale

NETWORK = "wrn34_10"
NAMES = ("rotation 10°", "brightness x 1.5", "contrast x 2", "grey")


@register("table", 5)
def table_5(scale: Scale) -> Exhibit:
    columns = {name: of_protocol(scale, name) for name in NAMES}
    return Exhibit(
        "table",
        5,
        "accuracy in percent on transformed images, CIFAR-10",
        scale,
        grid(scale.label(NETWORK), compared(scale, NETWORK), columns, published.TABLE_5),
        [NETWORK],
        chosen=[
            *TRAINING_CHOSEN,
            *BASELINES_CHOSEN,
            "rotation is counter-clockwise, bilinear, with black corners; brightness and contrast"
            " are torchvision's",
        ],
    )
