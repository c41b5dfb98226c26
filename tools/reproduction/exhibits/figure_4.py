"""Figure 4: SPROUT's final beta."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reproduction.exhibits.base import EXHIBITS, Beta, Cell, Exhibit
from reproduction.exhibits.trained import TRAINING_CHOSEN, sprout
from reproduction.scale import Scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reproduction.findings import Findings

NETWORK = "vgg16"
CLASSES = 10


@EXHIBITS.register("figure 4")
def figure_4(scale: Scale) -> Exhibit:
    training = sprout(scale, NETWORK, scale.train(NETWORK, "natural"))
    return Exhibit(
        "figure",
        4,
        f"products beta_s beta_t of two classes, SPROUT on {scale.label(NETWORK)}, CIFAR-10",
        scale,
        [
            Cell(f"class {one}", str(other), Beta(training, one, other))
            for one in range(CLASSES)
            for other in range(CLASSES)
        ],
        [NETWORK],
        chosen=[
            *TRAINING_CHOSEN,
            "beta is that after the last epoch; the paper does not state network and epoch",
        ],
        draw=draw_matrix,
    )


def draw_matrix(findings: Findings) -> Figure:
    """Draw the matrix as a heat map with class names."""
    from matplotlib.figure import Figure

    source = findings.exhibit.cells[0].source
    assert isinstance(source, Beta)
    names, beta = findings.beta(source.training)
    figure = Figure(figsize=(6, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.grid(False)
    shown = axes.imshow(beta.outer(beta).numpy(), cmap="cividis")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    figure.colorbar(shown, label="β_s β_t")
    return figure
