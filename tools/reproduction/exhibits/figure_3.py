"""Figure 3: accuracy under PGD against the width of WRN-34."""

from __future__ import annotations

from reproduction.exhibits.base import (
    EXHIBITS,
    Cell,
    Exhibit,
    Measured,
    paper_measurement,
)
from reproduction.exhibits.curves import draw_curves
from reproduction.exhibits.trained import (
    BASELINES_CHOSEN,
    TRAINING_CHOSEN,
    compared,
)
from reproduction.scale import Scale
from sprout_fast.paper import METHOD_NAMES


@EXHIBITS.register("figure 3")
def figure_3(scale: Scale) -> Exhibit:
    what = paper_measurement(scale, "PGD-20 at 0.03")
    networks = {width: f"wrn34_{width}" for width in scale.widths}
    trained = {width: compared(scale, network) for width, network in networks.items()}
    return Exhibit(
        "figure",
        3,
        "accuracy in percent under PGD-20 against the width of WRN-34, CIFAR-10, eps 0.03",
        scale,
        [
            Cell(METHOD_NAMES[method], f"width {width}", Measured(trained[width][method], what))
            for method in ("pgd_at", "trades", "sprout")
            for width in networks
        ],
        list(networks.values()),
        chosen=[
            *TRAINING_CHOSEN,
            *BASELINES_CHOSEN,
            "widths 1, 2, 4, 5, 10 and PGD-20 are assumptions about the paper's figure",
        ],
        draw=draw_curves("width"),
    )
