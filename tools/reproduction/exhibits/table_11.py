"""Table 11: how different the gradients of SPROUT's modules are."""

from __future__ import annotations

from reproduction.exhibits.base import Exhibit, register
from reproduction.exhibits.trained import TRAINING_CHOSEN, grid, sprout
from reproduction.scale import Scale
from sprout_fast.paper import UNSPECIFIED, published

NETWORK = "vgg16"


@register("table", 11)
def table_11(scale: Scale) -> Exhibit:
    training = sprout(scale, NETWORK, scale.train(NETWORK, "natural"))
    return Exhibit(
        "table",
        11,
        f"mean cosine of two modules' input gradients, {scale.label(NETWORK)}, CIFAR-10",
        scale,
        grid(scale, published(11, UNSPECIFIED), {"sprout": training}),
        [NETWORK],
        chosen=[
            *TRAINING_CHOSEN,
            "which model's gradients the paper compares is open: here SPROUT's, on test images,"
            " each module with its own draw",
        ],
    )
