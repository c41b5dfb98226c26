"""Tables 4 and 10: ImageNet under PGD toward a random class."""

from __future__ import annotations

from reproduction.datasets import IMAGENET
from reproduction.exhibits.base import EXHIBITS, Exhibit
from reproduction.exhibits.trained import (
    IMAGENET_TIMES,
    TRAINING_CHOSEN,
    grid,
    notes_of,
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
        "Free: eps 4/255, and a natural training's epochs divided by the number of replays, as in"
        " its paper, but at least one"
    )
    return exhibit


def _table(scale: Scale, number: int, network: str) -> Exhibit:
    table = published(number, network_name(network))
    natural = scale.train(network, "natural", dataset=IMAGENET)
    free = scale.train(
        network,
        "free_at",
        dataset=IMAGENET,
        epochs=IMAGENET.epochs // FREE_REPLAYS,
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
        f"accuracy in percent under PGD toward a random class, {scale.label(network)}, ImageNet",
        scale,
        grid(scale, table, trained, dataset=IMAGENET),
        [network],
        IMAGENET,
        chosen=[
            *TRAINING_CHOSEN,
            "the target is one random class per image, and the step size eps/5",
            "the natural model is trained too; no pretrained weights are used",
        ],
        incomparable="the paper's natural network is probably torchvision's, and how long its"
        " SPROUT was trained is inferred from its seconds",
        footnotes=[*notes_of(table, IMAGENET_TIMES)],
    )
