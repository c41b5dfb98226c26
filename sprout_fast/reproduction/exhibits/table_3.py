"""Table 3: attacks transferred from a natural model."""

from __future__ import annotations

from sprout_fast.reproduction import published
from sprout_fast.reproduction.exhibits.base import (
    METHOD_NAMES,
    Cell,
    Exhibit,
    Measured,
    of_protocol,
    register,
)
from sprout_fast.reproduction.exhibits.trained import (
    BASELINES_CHOSEN,
    TRAINING_CHOSEN,
    compared,
)
from sprout_fast.reproduction.scale import Scale


@register("table", 3)
def table_3(scale: Scale) -> Exhibit:
    what = of_protocol(scale, "transfer at 0.03")
    cells = []
    for network, rows in published.TABLE_3.items():
        trained = compared(scale, network)
        cells += [
            Cell(
                METHOD_NAMES[method],
                scale.label(network),
                Measured(trained[method], what, source=trained["natural"]),
                number,
            )
            for method, number in rows.items()
        ]
    return Exhibit(
        "table",
        3,
        "accuracy in percent under attacks made on the natural model, CIFAR-10, eps 0.03",
        scale,
        cells,
        list(published.TABLE_3),
        chosen=[
            *TRAINING_CHOSEN,
            *BASELINES_CHOSEN,
            "the attack is PGD-100 of steps of eps/5 on the natural model of the same network,"
            " whose images stay in the attack after it errs at them; SPROUT starts from that model",
        ],
    )
