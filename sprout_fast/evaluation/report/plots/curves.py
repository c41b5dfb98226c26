"""Accuracy under PGD as a function of eps, steps (Fig. 7a) and random restarts (Table 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from sprout_fast.evaluation import protocols
from sprout_fast.evaluation.protocols import PAPER_EPS, PAPER_RESTARTS, PAPER_STEPS
from sprout_fast.evaluation.report.comparison import dataset_like, network_like
from sprout_fast.evaluation.report.plots import base
from sprout_fast.evaluation.results import Results
from sprout_fast.paper import CIFAR10, IMAGENET, WRN, published

_AUDIT = ("PGD-20", *(f"PGD-20 at {factor:g} eps" for factor in protocols.EPS_FACTORS))
_EPS_CURVES = {
    "PGD-20, step size eps/5": (
        [f"PGD-20 at {eps:g}" for eps in (PAPER_EPS, *protocols.PAPER_EPS_CURVE)],
        base.OURS,
    ),
    "PGD-20, step size eps/4": ([f"audit: {name}" for name in _AUDIT], base.ALSO_OURS),
    "PGD-20, random target": (
        [f"random-target PGD-20 at {eps:g}" for eps in protocols.IMAGENET_EPS],
        {"color": "#000000", "marker": "d"},
    ),
}
_STEP_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


@base.register(
    place=2,
    title="Accuracy against eps",
    caption="Accuracy should decrease with eps and reach 0 for large eps. A curve that levels off "
    "above 0 indicates a failing attack, not a robust model. The star is the robust accuracy, over "
    "all attacks, at the eps of this evaluation.",
    paper="Hollow markers: the paper's PGD-20 at eps 0.03 (Table 2); for ImageNet, its PGD-20 "
    "toward a random target class at four eps (Tables 4 and 10).",
)
def accuracy_against_eps(results: Results) -> base.Drawing | None:
    figure, axes = base.new_axes(4.0)
    described = []
    for label, (names, style) in _EPS_CURVES.items():
        records = base.attacks_of(results, "pgd", names)
        records = [one for one in records if one.parameters["norm"] == results.norm]
        if len(records) < 2:
            continue
        eps = [0.0, *(record.parameters["eps"] for record in records)]
        accuracies = [results.clean, *(record.accuracy for record in records)]
        described.append(f"{label}: {base.accuracy_line(axes, eps, accuracies, label, **style)}")
    if not described:
        return None
    star = {"color": "black", "marker": "*", "markersize": 10, "elinewidth": None, "ls": "none"}
    base.accuracy_line(axes, [results.eps], [results.robust], "all attacks", **star)
    if results.norm == "linf":
        _draw_paper(axes, results)
    base.accuracy_axis(axes)
    axes.set_xlim(left=0)
    axes.set_xlabel(base.eps_label(results.norm))
    base.legend_below(figure)
    alt = f"Lines. {'; '.join(described)}. All attacks: {results.robust}."
    note = "" if results.norm == "linf" else "The paper reports this for l-inf only."
    return base.Drawing(figure, alt, note)


def _draw_paper(axes: Axes, results: Results) -> None:
    network = network_like(results)
    if dataset_like(results) == IMAGENET:
        table = published(4 if network == "ResNet-152" else 10, network)
        for method, values in table.rows.items():
            base.paper_points(axes, method, (0.0, *protocols.IMAGENET_EPS), values)
    else:
        for method, value in published(2, network).column("PGD-20").items():
            base.paper_points(axes, method, [PAPER_EPS], [value])


@base.register(
    place=3,
    title="Accuracy against PGD steps",
    caption=f"Accuracy under PGD (l-inf, eps {PAPER_EPS}, step size eps/5, one random start). If "
    "the curve still decreases at the right, the attack has not converged.",
    paper="The paper's Fig. 7a has 10 to 500 steps. Hollow markers: its Table 2, at 20, 100 and "
    "200 steps.",
)
def accuracy_against_steps(results: Results) -> base.Drawing | None:
    counts, paper = (20, 100, 200), {}
    if dataset_like(results) == CIFAR10:
        table = published(2, network_like(results))
        columns = [table.column(f"PGD-{count}") for count in counts]
        paper = {method: [column[method] for column in columns] for method in table.rows}
    names = [f"PGD-{steps} at {PAPER_EPS:g}" for steps in PAPER_STEPS]
    curve = _pgd_curve(results, names, "steps", "steps", counts, paper)
    if curve is None:
        return None
    drawing, axes, steps = curve
    axes.set_xscale("log")
    ticks = [tick for tick in _STEP_TICKS if min(steps) / 2 < tick]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("steps (log scale)")
    return drawing


@base.register(
    place=4,
    title="Accuracy against restarts",
    caption=f"Accuracy under PGD-20 (l-inf, eps {PAPER_EPS}) with several random starts. An image "
    "counts as correctly classified only if it is for every start. A steep curve indicates a "
    "rugged loss surface.",
    paper="Hollow markers: the paper's Table 9, Wide ResNet, 1 to 10 starts.",
)
def accuracy_against_restarts(results: Results) -> base.Drawing | None:
    paper = published(9, WRN).rows if dataset_like(results) == CIFAR10 else {}
    several = [f"{count}x PGD-20 at {PAPER_EPS:g}" for count in PAPER_RESTARTS[1:]]
    names = [f"PGD-20 at {PAPER_EPS:g}", *several]
    curve = _pgd_curve(results, names, "restarts", "starts", PAPER_RESTARTS, paper)
    if curve is None:
        return None
    drawing, axes, starts = curve
    axes.set_xticks(range(1, max(*PAPER_RESTARTS, *starts) + 1))
    axes.set_xlabel("random starts")
    return drawing


def _pgd_curve(
    results: Results,
    names: Sequence[str],
    option: str,
    unit: str,
    paper_xs: Sequence[int],
    paper: Mapping[str, Sequence[float]],
) -> tuple[base.Drawing, Axes, list[int]] | None:
    """Draw the accuracy of the named attacks against one of their options, as it was run."""
    records = base.attacks_of(results, "pgd", names)
    if len(records) < 2:
        return None
    figure, axes = base.new_axes()
    xs = [record.parameters["options"].get(option, 1) for record in records]
    accuracies = [record.accuracy for record in records]
    points = base.accuracy_line(axes, xs, accuracies, "this model", **base.OURS)
    for method, values in paper.items():
        base.paper_points(axes, method, paper_xs, values)
    base.accuracy_axis(axes)
    base.legend_below(figure)
    note = base.cifar10_only_note(results)
    return base.Drawing(figure, f"Line: {points} {unit}.", note), axes, xs
