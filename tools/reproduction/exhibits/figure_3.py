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
    steps_of,
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
        f"accuracy in percent under PGD with {steps_of(what)} steps against the width of"
        f" {scale.wide_name}, CIFAR-10, eps 0.03",
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
            f"the widths, here {', '.join(map(str, scale.widths))}, and PGD-20 are assumptions"
            " about the paper's figure",
        ],
        draw=draw_curves("width", ticks=scale.widths),
    )
