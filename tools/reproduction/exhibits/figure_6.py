"""Figure 6: accuracy under C&W in the l-infinity ball."""

from __future__ import annotations

from reproduction.exhibits.base import (
    EXHIBITS,
    Cell,
    Exhibit,
    Measured,
)
from reproduction.exhibits.curves import draw_curves
from reproduction.exhibits.trained import (
    BASELINES_CHOSEN,
    TRAINING_CHOSEN,
    compared,
    steps_of,
)
from reproduction.scale import Scale
from sprout_fast.evaluation.protocols import PAPER_EPS, PAPER_EPS_CURVE, paper_pgd
from sprout_fast.paper import METHOD_NAMES

NETWORK = "vgg16"


@EXHIBITS.register("figure 6")
def figure_6(scale: Scale) -> Exhibit:
    attacks = {
        eps: paper_pgd(scale.setting(), f"C&W-linf at {eps:g}", eps, 100, loss="margin")
        for eps in sorted((*PAPER_EPS_CURVE, PAPER_EPS))
    }
    return Exhibit(
        "figure",
        6,
        f"accuracy in percent under C&W-l-inf against eps, {scale.label(NETWORK)}, CIFAR-10",
        scale,
        [
            Cell(METHOD_NAMES[method], f"eps {eps:g}", Measured(training, what))
            for method, training in compared(scale, NETWORK).items()
            for eps, what in attacks.items()
        ],
        [NETWORK],
        chosen=[
            *TRAINING_CHOSEN,
            *BASELINES_CHOSEN,
            f"the attack is PGD with C&W's margin loss and {steps_of(attacks[PAPER_EPS])} steps of"
            " size eps/5; the paper does not state network, steps and eps",
        ],
        draw=draw_curves("eps"),
    )
