"""Table 11: similarity of the input gradients of SPROUT's modules."""

from __future__ import annotations

from reproduction.exhibits.base import EXHIBITS, Exhibit, paper_measurement
from reproduction.exhibits.trained import TRAINING_CHOSEN, grid, sprout
from reproduction.scale import Scale
from sprout_fast.evaluation.measurements import Diversity
from sprout_fast.paper import VGG, published

NETWORK = "vgg16"


@EXHIBITS.register("table 11")
def table_11(scale: Scale) -> Exhibit:
    what = paper_measurement(scale, "diversity")
    assert isinstance(what, Diversity)
    training = sprout(scale, NETWORK, scale.train(NETWORK, "natural"))
    return Exhibit(
        "table",
        11,
        f"mean cosine similarity of two modules' input gradients, {scale.label(NETWORK)}, CIFAR-10",
        scale,
        grid(scale, published(11, VGG), {"sprout": training}),
        [NETWORK],
        chosen=[
            *TRAINING_CHOSEN,
            "the gradients are those of SPROUT's last epoch on test images; the paper does not say"
            " which model's it compares",
            "each image has its own lambda, partner, noise and label for each module, and each"
            f" value is a mean over {what.draws} such draws per image, so the interval over images"
            " is also one over draws",
        ],
        incomparable="the model, the images and the number of draws are choices",
    )
