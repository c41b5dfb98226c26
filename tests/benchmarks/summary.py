#!/usr/bin/env python
"""Summarize the results of `make bench` from pytest-benchmark's JSON: table, targets and plot.

python tests/benchmarks/summary.py build/bench.json [--page docs/benchmarks.md]

Prints the table and writes it next to the JSON as Markdown, with the plot as bench_scaling.png.
With --page, it also replaces the tables between the markers of that page. A time is the median over
turns of the median within a turn; a ratio is the median over turns of the ratio within a turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import _paths  # noqa: F401
from pages import replace_section
from rich.console import Console
from training_benchmark.machine import caption
from training_benchmark.tables import console_table, digits, markdown_table

OURS, MEMCPY, CROSS_ENTROPY = "sprout_fast", "memcpy", "cross_entropy"
SLOWER = {"eager": "eager", "compiled": "compile", "torch.distributions": "distributions"}
COLUMNS = ["op", "size", "what", "setting", "ms", *SLOWER.values(), "/ cross entropy", "/ memcpy"]
EXPLANATION = (
    "ms: median time of sprout_fast. eager, (torch.)compile, (torch.)distributions: their time"
    " divided by sprout_fast's. / cross entropy: sprout_fast's time divided by that of"
    " F.cross_entropy with class indices; / memcpy: divided by that of a warm copy of as many bytes"
    " as the op has to read and write."
)

Line = tuple[str, str, str, str]  # op, size, what, setting
Turns = dict[int, float]  # seconds by turn


def ratio(a: Turns, b: Turns) -> float:
    """Return the median over turns of a / b."""
    return statistics.median(a[turn] / b[turn] for turn in a)


class Results:
    """The results of one run.

    Args:
        report: pytest-benchmark's JSON.

    Attributes:
        lines: data of the table: seconds by line, contestant and turn.
        points: data of the plot: seconds by axis, (op, contestant), value and turn.
    """

    def __init__(self, report: dict) -> None:
        self.machine = report["machine_info"]
        self.date = report["datetime"][:10]
        self.lines: dict[Line, dict[str, Turns]] = defaultdict(lambda: defaultdict(dict))
        self.points: dict[str, dict[tuple[str, str], dict[int, Turns]]] = defaultdict(
            lambda: defaultdict(lambda: defaultdict(dict))
        )
        for benchmark in report["benchmarks"]:
            info, median = benchmark["extra_info"], benchmark["stats"]["median"]
            if "axis" in info:
                series = self.points[info["axis"]][info["op"], info["contestant"]]
                series[info["value"]][info["turn"]] = median
            else:
                line = info["op"], info["size"], info["what"], info["setting"]
                self.lines[line][info["contestant"]][info["turn"]] = median

    def rows(self) -> Iterator[list[str]]:
        """Yield the rows of the table, with ``COLUMNS``."""
        for (op, size, what, setting), found in self.lines.items():
            for name in [name for name in found if name.startswith(OURS)]:
                ours = found[name]
                option = name.removeprefix(OURS).removeprefix(", ")
                cells = [op, size, what, ", ".join(filter(None, (setting, option)))]
                cells.append(f"{1e3 * statistics.median(ours.values()):.3g}")
                cells += [digits(ratio(found[n], ours)) if n in found else "" for n in SLOWER]
                cells += [
                    digits(ratio(ours, found[n])) if n in found else ""
                    for n in (CROSS_ENTROPY, MEMCPY)
                ]
                yield cells

    def floor_rows(self) -> list[list[str]]:
        """Return the targets for the instruction set in use, with ``FLOOR_COLUMNS``."""
        return [floor.row(self) for floor in floors(self.machine["cpu_isa"])]

    def thread_rows(self) -> Iterator[list[str]]:
        """Yield ms on 1 and 2 threads and their ratio for each op, with ``THREAD_COLUMNS``."""
        for (op, _), series in self.points["threads"].items():
            ms = [f"{1e3 * statistics.median(series[n].values()):.3g}" for n in (1, 2)]
            yield [op, *ms, f"{ratio(series[1], series[2]):.2f}"]

    def caption(self) -> str:
        """Return date, machine and versions in one line."""
        return caption(self.machine, self.date)


MIXUP = "gaussian_mixup", "64×3×224×224", "forward"
MIXUP_ELEMENTS = 64 * 3 * 224 * 224
LOSS, SMALL_LOSS = (("sprout_loss", size, "forward+backward") for size in ("256×1000", "128×10"))
DIRICHLET = "dirichlet", "128×10", "forward", ""
FRESH, WARM = "to float32, fresh", "to float32, warm"
PAPER, CODE = "paper, float32", "code, float32"
# Nanoseconds per element of the mixup on 2 threads, by the instruction set of the kernels.
WARM_NS = {"avx512": 0.25, "avx2": 0.45, "portable": 1.5}


@dataclass
class Floor:
    """A speed target of docs/design.md.

    Args:
        name: what is measured.
        above, below: (line, contestant) of the ratio's numerator and denominator; if ``below`` is
            None, the time in ns per element is measured.
        at_least, at_most: the bound, one of the two.
        difference: measure by how many microseconds ``above`` takes longer, not the ratio.
    """

    name: str
    above: tuple[Line, str]
    below: tuple[Line, str] | None
    at_least: float = 0
    at_most: float = float("inf")
    difference: bool = False

    def measured(self, results: Results) -> float | None:
        """Return the measured value, or None if the run does not contain it."""
        times = [results.lines.get(at[0], {}).get(at[1]) for at in (self.above, self.below) if at]
        if None in times:
            return None
        if self.below is None:
            return 1e9 * statistics.median(times[0].values()) / MIXUP_ELEMENTS
        if self.difference:
            more = (times[0][turn] - times[1][turn] for turn in times[0])
            return 1e6 * statistics.median(more)
        return ratio(*times)

    def row(self, results: Results) -> list[str]:
        """Return name, bound, measured value and verdict, with ``FLOOR_COLUMNS``."""
        bound = f"≥ {self.at_least:g}" if self.at_least else f"≤ {self.at_most:g}"
        value = self.measured(results)
        if value is None:
            return [self.name, bound, "", "not measured"]
        reached = self.at_least <= value <= self.at_most
        return [self.name, bound, f"{value:.3g}", "reached" if reached else "missed"]


def floors(isa: str = "avx512") -> list[Floor]:
    """Return the targets for kernels of an instruction set."""
    fresh, warm = (*MIXUP, FRESH), (*MIXUP, WARM)
    alone = (*MIXUP, f"{WARM}, normalized only")
    forward = (*MIXUP, "from float32")
    both = (*MIXUP[:2], "forward+backward", "from float32")
    mixup = "gaussian_mixup to float32"
    found = [
        Floor(f"{mixup}, fresh: eager / sprout_fast", (fresh, "eager"), (fresh, OURS), 100),
        Floor(
            f"{mixup}, fresh: torch.compile / sprout_fast", (fresh, "compiled"), (fresh, OURS), 40
        ),
        Floor(f"{mixup}, warm: ns per element", (warm, OURS), None, at_most=WARM_NS[isa]),
        Floor(
            f"{mixup}, warm: normalization alone / memcpy",
            (alone, OURS),
            (alone, MEMCPY),
            at_most=2,
        ),
        Floor(
            "gaussian_mixup from float32: forward+backward / forward",
            (both, OURS),
            (forward, OURS),
            at_most=2.2,
        ),
    ]
    for option in ("expected", "implicit"):
        ours = f"{OURS}, {option}"
        for recipe, setting, faster, slower in (("paper", PAPER, 80, 2), ("code", CODE, 35, 4)):
            line, name = (*LOSS, setting), f"sprout_loss 256×1000, {recipe}, {option}"
            others = (line, "torch.distributions")
            found.append(
                Floor(f"{name}: torch.distributions / sprout_fast", others, (line, ours), faster)
            )
            if option == "expected":  # the default from 100 classes on
                theirs = (line, CROSS_ENTROPY)
                found.append(
                    Floor(
                        f"{name}: sprout_fast / cross entropy", (line, ours), theirs, at_most=slower
                    )
                )
            small = (*SMALL_LOSS, setting)
            name = f"sprout_loss 128×10, {recipe}, {option}: sprout_fast / cross entropy"
            found.append(Floor(name, (small, ours), (small, CROSS_ENTROPY), at_most=2))
    for line in (DIRICHLET, (*DIRICHLET[:2], "forward+backward", "")):
        name = f"dirichlet 128×10, {line[2]}: torch.distributions / sprout_fast"
        found.append(Floor(name, (line, "torch.distributions"), (line, OURS), 3))
    for what in ("forward", "forward+backward"):
        line = "generalized_cross_entropy", "128×10", what, "class indices"
        name = f"generalized_cross_entropy 128×10, {what}: sprout_fast / eager"
        found.append(Floor(name, (line, OURS), (line, "eager"), at_most=1))
    line = "SproutLoss", "128×10", "forward+backward", ""
    name = "SproutLoss 128×10: sprout_fast / cross entropy"
    found.append(Floor(name, (line, OURS), (line, CROSS_ENTROPY), at_most=2))
    line = "SproutMixup", "128×3×32×32", "forward", ""
    name = "SproutMixup 128×3×32×32: µs more than gaussian_mixup"
    found.append(Floor(name, (line, OURS), (line, "op"), at_most=15, difference=True))
    return found


FLOOR_COLUMNS = ["target", "bound", "measured", ""]
THREAD_COLUMNS = ["op", "ms, 1 thread", "ms, 2 threads", "speedup"]


def markdown(results: Results) -> str:
    """Return the content of the page: targets, threads, and the table in a collapsed section."""
    return (
        f"`make bench`: {results.caption()}.\n\n"
        + markdown_table(FLOOR_COLUMNS, results.floor_rows(), left=1)
        + "\n"
        + markdown_table(THREAD_COLUMNS, results.thread_rows(), left=1)
        + "\n<details><summary>Every op, size and contestant</summary>\n\n"
        + f"{EXPLANATION}\n\n"
        + markdown_table(COLUMNS, results.rows(), left=4)
        + "\n</details>\n"
    )


def plot(results: Results, path: Path) -> None:
    """Draw panels for batch size, classes, image size and threads."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 2, figsize=(11, 8), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1, w_pad=0.1)
    titles = {
        "batch": ("Batch size: sprout_loss with gradients, K = 1000", "batch size B"),
        "classes": ("Classes: with gradients, B = 16", "classes K"),
        "side": (
            "Image size: gaussian_mixup to float32, B = 16",
            "image height and width in pixels",
        ),
    }
    who = {
        OURS: "sprout_fast",
        "eager": "eager PyTorch",
        "torch.distributions": "torch.distributions",
    }
    colors = {"gaussian_mixup": "tab:blue", "sprout_loss": "tab:blue", "dirichlet": "tab:orange"}
    for panel, (axis, (title, label)) in zip(panels.flat, titles.items(), strict=False):
        if not results.points[axis]:  # a part of the benchmarks was run
            panel.axis("off")
            continue
        values: list[int] = []
        for (op, contestant), series in results.points[axis].items():
            values = sorted(series)
            ms = [1e3 * statistics.median(series[value].values()) for value in values]
            ours = contestant == OURS
            panel.plot(
                values,
                ms,
                color=colors[op],
                linestyle="-" if ours else "--",
                marker="o" if ours else "s",
                markersize=5,
                label=f"{op}: {who[contestant]}" if axis == "classes" else who[contestant],
            )
        panel.set(xscale="log", yscale="log", title=title, xlabel=label, ylabel="ms per call")
        panel.set_xticks(values, [f"{value:,}" for value in values])
        panel.yaxis.set_major_formatter("{x:g}")
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    panel = panels[1, 1]
    rows = list(results.thread_rows())
    for number, (_, one, two, speedup) in enumerate(rows):
        panel.barh(number, float(speedup), color="lightsteelblue", height=0.6)
        panel.text(0.04, number, f"{speedup}×   ({one} and {two} ms)", va="center")
    panel.set_yticks(range(len(rows)), [row[0] for row in rows])
    panel.axvline(2, color="black", linewidth=1, linestyle=":")
    panel.invert_yaxis()
    panel.set(
        title="Threads: sprout_fast, 64×3×224×224 and 256×1000",
        xlabel="speedup of 2 threads over 1",
        xlim=(0, 2.15),
    )
    figure.suptitle(f"sprout_fast on {results.machine['processor']}, {results.date}")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Print the table, write all files, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("json", type=Path, help="output of pytest --benchmark-json")
    parser.add_argument("--page", type=Path, help="page whose tables to replace")
    options = parser.parse_args(argv)
    results = Results(json.loads(options.json.read_text()))
    console = Console(width=max(Console().width, 180))  # rich would drop columns
    console.print(console_table(COLUMNS, results.rows(), left=4))
    console.print(EXPLANATION, "\n", style="dim")
    console.print(console_table(FLOOR_COLUMNS, results.floor_rows(), left=1))
    console.print("")
    console.print(console_table(THREAD_COLUMNS, results.thread_rows(), left=1))
    console.print("\n" + results.caption())
    options.json.with_suffix(".md").write_text(markdown(results))
    plot(results, options.json.with_name("bench_scaling.png"))
    if options.page:
        try:
            replace_section(options.page, "bench", markdown(results))
        except ValueError as error:
            parser.error(f"--page {options.page}: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
