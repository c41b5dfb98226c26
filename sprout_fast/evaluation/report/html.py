"""Write an evaluation as one self-contained HTML file."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from sprout_fast.evaluation.report.comparison import paper_tables
from sprout_fast.evaluation.report.gallery import gallery_of
from sprout_fast.evaluation.report.plots.base import plots, png
from sprout_fast.evaluation.report.verdict import verdict_of
from sprout_fast.evaluation.results import Results
from sprout_fast.files import atomic_write
from sprout_fast.paper import METHOD_NAMES

_ATTACKS = {
    "apgd_ce": "Auto-PGD, cross entropy",
    "apgd_t": "Auto-PGD, targeted DLR loss",
    "autoattack": "official AutoAttack",
    "cw_l2": "C&W, smallest l2 perturbation",
    "fab": "FAB, smallest perturbation",
    "fab_t": "FAB, smallest perturbation toward each target class",
    "noise": "uniform noise in the ball",
    "pgd": "PGD",
    "square": "Square, without gradients",
    "transfer": "transfer from the surrogate model",
}
# Singular and plural, by option.
_COUNTS = {
    "steps": ("step", "steps"),
    "restarts": ("start", "starts"),
    "binary_searches": ("binary search", "binary searches"),
    "queries": ("query", "queries"),
    "target_classes": ("target class", "target classes"),
    "draws": ("draw", "draws"),
}


def write_report(results: Results, folder: str | Path) -> Path:
    """Write ``report.html``, which needs no other file, and ``figures/*.png`` into a folder.

    The report states the clean and the robust accuracy and whether the audit supports them, lists
    all attacks with their parameters, compares with the paper's numbers, and says what was not
    measured. It needs matplotlib and jinja2.

    Args:
        results: results of :func:`sprout_fast.evaluate` with any protocol.
        folder: where to write; created if necessary.

    Returns:
        The path of report.html.

    >>> import tempfile, torch, sprout_fast
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))
    >>> images, labels = torch.rand(6, 3, 2, 2), torch.tensor([0, 1, 2, 3, 0, 1])
    >>> results = sprout_fast.evaluate(model, images, labels, eps=0.1, scale=0.1)
    >>> write_report(results, tempfile.mkdtemp()).name
    'report.html'
    """
    path = Path(folder) / "report.html"
    figures = path.parent / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    drawn, not_drawn = [], []
    for plot in plots():
        drawing = plot.draw(results)
        figure = figures / f"{plot.name}.png"
        if drawing is None:
            figure.unlink(missing_ok=True)  # from a previous evaluation
            not_drawn.append(plot)
        else:
            figure.write_bytes(image := png(drawing))
            drawn.append((plot, drawing, data_url(image)))
    environment = Environment(
        loader=PackageLoader("sprout_fast.evaluation.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "ball": describe_ball,
        "data_url": data_url,
        "describe_attack": describe_attack,
        "number": lambda value: f"{value:.4g}",
        "json": lambda value: json.dumps(value, ensure_ascii=False),
    }
    page = environment.get_template("report.html.jinja").render(
        results=results,
        plain=results.to_dict(),
        verdict=verdict_of(results),
        tables=paper_tables(results),
        method_names=METHOD_NAMES,
        drawn=drawn,
        not_drawn=not_drawn,
        gallery=gallery_of(results),
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def data_url(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def describe_attack(parameters: Mapping[str, Any]) -> str:
    """Describe an attack by its parameters, as in ``AttackMeasurement.parameters()``.

    >>> describe_attack({"attack": "pgd", "norm": "linf", "eps": 0.03, "options": {
    ...     "steps": 20, "step_size": 0.006, "restarts": 1, "loss": "margin"}})
    'PGD; l-inf, eps 0.03; 20 steps; step size 0.006; 1 start; loss margin'
    """
    attack = parameters["attack"]
    parts = [_ATTACKS.get(attack, attack), describe_ball(parameters["norm"], parameters["eps"])]
    for name, value in parameters["options"].items():
        if name in _COUNTS:
            parts.append(f"{value:,} {_COUNTS[name][value != 1]}")
        elif isinstance(value, bool):
            parts.append(name.replace("_", " ") if value else f"no {name.replace('_', ' ')}")
        elif value is not None:
            shown = f"{value:.4g}" if isinstance(value, float) else value
            parts.append(f"{name.replace('_', ' ')} {shown}")
    return "; ".join(parts)


def describe_ball(norm: str, eps: float) -> str:
    """Describe a ball, with its radius as a multiple of 1/255 if it is one.

    >>> describe_ball("linf", 8 / 255), describe_ball("l2", 0.5)
    ('l-inf, eps 8/255', 'l2, eps 0.5')
    """
    levels = eps * 255
    whole = norm == "linf" and abs(levels - round(levels)) < 1e-9 * levels
    radius = f"{round(levels)}/255" if whole else f"{eps:.4g}"
    return f"{'l-inf' if norm == 'linf' else norm}, eps {radius}"
