"""An evaluation as one HTML file that a person reads from top to bottom."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from sprout_fast.evaluation.report.gallery import gallery_of
from sprout_fast.evaluation.report.paper_tables import tables_beside
from sprout_fast.evaluation.report.plots import plots, png
from sprout_fast.evaluation.report.verdict import verdict_of
from sprout_fast.evaluation.report.words import ball_in_words, in_words
from sprout_fast.evaluation.results import Results


def write_report(results: Results, folder: str | Path) -> Path:
    """Write ``folder/report.html``, which needs no other file, and ``folder/figures/*.png``.

    Args:
        results: of an evaluation by any protocol; what was not measured is named in the report.
        folder: made where it is not there.

    Returns:
        the path of report.html.
    """
    folder = Path(folder)
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    drawn, not_drawn = [], []
    for plot in plots():
        drawing = plot.draw(results)
        path = figures / f"{plot.name}.png"
        if drawing is None:
            path.unlink(missing_ok=True)  # of an evaluation before this one
            not_drawn.append(plot)
            continue
        image = png(drawing)
        path.write_bytes(image)
        drawn.append((plot, drawing, data_url(image)))
    page = (
        _environment()
        .get_template("report.html.jinja")
        .render(
            results=results,
            plain=results.to_dict(),
            verdict=verdict_of(results),
            tables=tables_beside(results),
            drawn=drawn,
            not_drawn=not_drawn,
            gallery=gallery_of(results),
        )
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def data_url(image: bytes) -> str:
    """A PNG file as the address of itself."""
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sprout_fast.evaluation.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "ball": ball_in_words,
        "data_url": data_url,
        "in_words": in_words,
        "number": lambda value: f"{value:.4g}",
        "json": lambda value: json.dumps(value, ensure_ascii=False),
    }
    return environment
