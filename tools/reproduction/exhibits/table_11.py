"""Table 11: similarity of the input gradients of SPROUT's modules."""

from __future__ import annotations

from reproduction.exhibits.base import EXHIBITS, Exhibit
from reproduction.exhibits.trained import TRAINING_CHOSEN, grid, sprout
from reproduction.scale import Scale
from sprout_fast.paper import UNSPECIFIED, published

NETWORK = "vgg16"


@EXHIBITS.register("table 11")
def table_11(scale: Scale) -> Exhibit:
    training = sprout(scale, NETWORK, scale.train(NETWORK, "natural"))
    return Exhibit(
        "table",
        11,
        f"mean cosine similarity of two modules' input gradients, {scale.label(NETWORK)}, CIFAR-10",
        scale,
        grid(scale, published(11, UNSPECIFIED), {"sprout": training}),
        [NETWORK],
        chosen=[
            *TRAINING_CHOSEN,
            "the paper does not say which model's gradients it compares; these are SPROUT's on test"
            " images, with independent random numbers for each module",
        ],
    )
