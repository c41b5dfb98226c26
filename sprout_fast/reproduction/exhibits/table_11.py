"""Table 11: how different the gradients of SPROUT's modules are."""

from __future__ import annotations

from sprout_fast.reproduction import published
from sprout_fast.reproduction.exhibits.base import (
    Cell,
    Exhibit,
    Measured,
    mean_of,
    of_protocol,
    register,
)
from sprout_fast.reproduction.exhibits.trained import TRAINING_CHOSEN, sprout
from sprout_fast.reproduction.scale import Scale

NETWORK = "vgg16"
NAMES = {
    "dirichlet_mixup": "Dirichlet - Mixup",
    "dirichlet_ga": "Dirichlet - GA",
    "mixup_ga": "Mixup - GA",
}


@register("table", 11)
def table_11(scale: Scale) -> Exhibit:
    training = sprout(scale, NETWORK, scale.train(NETWORK, "natural"))
    what = of_protocol(scale, "diversity")
    return Exhibit(
        "table",
        11,
        f"mean cosine of two modules' input gradients, {scale.label(NETWORK)}, CIFAR-10",
        scale,
        [
            Cell(NAMES[pair], "cosine", Measured(training, what, mean_of(pair)), number)
            for pair, number in published.TABLE_11.items()
        ],
        [NETWORK],
        chosen=[
            *TRAINING_CHOSEN,
            "which model's gradients the paper compares is open: here SPROUT's, on test images,"
            " each module with its own draw",
        ],
    )
