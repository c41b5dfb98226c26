"""Figure 2: the loss landscape around an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from reproduction.exhibits.base import (
    EXHIBITS,
    Cell,
    Exhibit,
    Measured,
    mean_of,
    paper_measurement,
)
from reproduction.exhibits.trained import (
    BASELINES_CHOSEN,
    TRAINING_CHOSEN,
    compared,
)
from reproduction.scale import Scale
from sprout_fast.evaluation.measurements import Landscape
from sprout_fast.paper import METHOD_NAMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reproduction.findings import Findings

NETWORK = "vgg16"


@EXHIBITS.register("figure 2")
def figure_2(scale: Scale) -> Exhibit:
    what = paper_measurement(scale, "loss landscape")
    assert isinstance(what, Landscape)
    end = what.points - 1
    places = {
        "at the image": (0, 0),
        f"{what.radius:g} along the gradient sign": (end, 0),
        f"{what.radius:g} along random signs": (0, end),
        "along both": (end, end),
    }
    return Exhibit(
        "figure",
        2,
        f"mean cross entropy in nats around test images, {scale.label(NETWORK)}, CIFAR-10",
        scale,
        [
            Cell(METHOD_NAMES[method], column, Measured(training, what, mean_of("loss", *place)))
            for method, training in compared(scale, NETWORK).items()
            for column, place in places.items()
        ],
        [NETWORK],
        chosen=[
            *TRAINING_CHOSEN,
            *BASELINES_CHOSEN,
            f"up to {what.radius:g} in both directions; the paper does not state network, image and"
            " range",
        ],
        remarks=averaged_over,
        draw=draw_landscapes,
    )


def averaged_over(findings: Findings) -> list[str]:
    """Return how many images the means are over."""
    value = findings.value(findings.exhibit.cells[0])
    return [f"means over {value.images} test images, spread over the classes"]


def draw_landscapes(findings: Findings) -> Figure:
    """Draw one surface per model, with common axes."""
    from matplotlib.figure import Figure

    by_row = {
        cell.row: cell.source
        for cell in findings.exhibit.cells
        if isinstance(cell.source, Measured)
    }
    surfaces = {
        row: findings.record(source).columns["loss"].mean(0) for row, source in by_row.items()
    }
    figure = Figure(figsize=(4 * len(surfaces), 4), layout="constrained")
    top = max(surface.max().item() for surface in surfaces.values())
    for place, (row, surface) in enumerate(surfaces.items(), start=1):
        measurement = by_row[row].measurement
        assert isinstance(measurement, Landscape)
        lengths = torch.linspace(0, measurement.radius, len(surface))
        along, across = torch.meshgrid(lengths, lengths, indexing="ij")
        axes: Any = figure.add_subplot(1, len(surfaces), place, projection="3d")
        axes.plot_surface(along.numpy(), across.numpy(), surface.numpy(), cmap="cividis")
        axes.set(title=row, zlim=(0, top), xlabel="gradient sign", ylabel="random signs")
        axes.locator_params(nbins=4)
        axes.set_zlabel("loss")
        axes.set_box_aspect(None, zoom=0.8)  # keeps the axis labels inside the figure
    return figure
