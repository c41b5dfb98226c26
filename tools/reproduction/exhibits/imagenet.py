"""Tables 4 and 10: ImageNet under PGD towards a random class."""

from __future__ import annotations

from reproduction.datasets import IMAGENET
from reproduction.exhibits.base import EXHIBITS, Exhibit
from reproduction.exhibits.trained import (
    IMAGENET_CHOSEN,
    TRAINING_CHOSEN,
    grid,
    sprout,
)
from reproduction.scale import Scale, network_name
from sprout_fast.paper import published

FREE_REPLAYS = 8


@EXHIBITS.register("table 4")
def table_4(scale: Scale) -> Exhibit:
    return _table(scale, 4, "resnet152")


@EXHIBITS.register("table 10")
def table_10(scale: Scale) -> Exhibit:
    exhibit = _table(scale, 10, "resnet50")
    exhibit.chosen.append(
        f"Free: {FREE_REPLAYS} replays, eps 4/255, and the number of epochs divided by that of"
        " replays, as in its paper"
    )
    return exhibit


def _table(scale: Scale, number: int, network: str) -> Exhibit:
    natural = scale.train(network, "natural", dataset=IMAGENET)
    free = scale.train(
        network,
        "free_at",
        dataset=IMAGENET,
        epochs=max(1, round(scale.epochs(IMAGENET) / FREE_REPLAYS)),
        replays=FREE_REPLAYS,
        eps=4 / 255,
    )
    trained = {
        "natural": natural,
        "free_at": free,
        "sprout": sprout(scale, network, natural, IMAGENET),
    }
    return Exhibit(
        "table",
        number,
        f"accuracy in percent under PGD towards a random class, {scale.label(network)}, ImageNet",
        scale,
        grid(scale, published(number, network_name(network)), trained, dataset=IMAGENET),
        [network],
        IMAGENET,
        chosen=[*TRAINING_CHOSEN, *IMAGENET_CHOSEN],
    )
