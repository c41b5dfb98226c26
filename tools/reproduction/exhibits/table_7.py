"""Table 7: ablation of SPROUT's modules, alone and in pairs."""

from __future__ import annotations

from reproduction.exhibits.base import EXHIBITS, Exhibit
from reproduction.exhibits.trained import TRAINING_CHOSEN, grid, notes_of, sprout
from reproduction.scale import Scale
from sprout_fast.paper import VGG, published

NETWORK = "vgg16"
#: The option ``modules`` of the method, by the paper's name of the row.
MODULES = {
    "GA": "ga",
    "Mixup": "mixup",
    "Dirichlet": "dirichlet",
    "GA + Mixup": "ga,mixup",
    "Mixup + Dirichlet": "mixup,dirichlet",
    "GA + Dirichlet": "ga,dirichlet",
    "uniform label smoothing": "ls",
    "sprout": "ga,mixup,dirichlet",
}


@EXHIBITS.register("table 7")
def table_7(scale: Scale) -> Exhibit:
    table, natural = published(7, VGG), scale.train(NETWORK, "natural")
    trained = {
        name: sprout(scale, NETWORK, natural, modules=modules) for name, modules in MODULES.items()
    }
    return Exhibit(
        "table",
        7,
        f"accuracy in percent of SPROUT's modules, {scale.label(NETWORK)}, CIFAR-10, eps 0.03",
        scale,
        grid(scale, table, trained),
        [NETWORK],
        chosen=[
            *TRAINING_CHOSEN,
            "every row is initialized from the natural model, like SPROUT; uniform label smoothing"
            f" uses SPROUT's alpha, {trained['sprout']['alpha']:g}",
        ],
        incomparable="the ablations' initial weights and epochs and the smoothing of the uniform"
        " labels are choices, and the paper's two numbers for SPROUT differ by 0.4 points",
        footnotes=notes_of(table),
    )
