"""tools/reproduce_paper.py: all tables and figures are planned and drawn, and two are run.

``make exhibits`` runs them all on real images.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.image_files import noise_image, write_folder
from helpers.paths import TOOLS
from PIL import Image
from reproduce_paper import main
from reproduction import plan, store
from reproduction import subset_folder as subsets
from reproduction.datasets import CIFAR, IMAGENET
from reproduction.exhibits.base import EXHIBITS, Measured
from reproduction.exhibits.trained import TRAINING_CHOSEN
from reproduction.findings import Findings
from reproduction.locks import locked
from reproduction.options import FIGURES, TABLES
from reproduction.scale import Scale
from reproduction.side_by_side import SideBySide, headline
from reproduction.store import TIMED_METHODS, Store
from reproduction.subset_folder import subset_folder
from reproduction.what_ran import differences, timing_lines, training_lines
from rich.console import Console
from training_benchmark.rounds import Timings

from sprout_fast import load_model
from sprout_fast.data import read_images, scan
from sprout_fast.errors import UserError
from sprout_fast.evaluation import measure_accuracy
from sprout_fast.evaluation.measurements import (
    AttackMeasurement,
    Diversity,
    Landscape,
    Measurement,
)
from sprout_fast.evaluation.recorder import AccuracyRecord, Record, Recorder
from sprout_fast.methods.sprout import Sprout
from sprout_fast.models import read_checkpoint
from sprout_fast.nn.loss import SproutLoss

TOOL = TOOLS / "reproduce_paper.py"
CPU = torch.device("cpu")
TINY = 1e-6
ALL = [*EXHIBITS]
CLASSES = [f"class{number}" for number in range(10)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten classes of 32-pixel images: 80 for training, 20 for testing."""
    counts = {"train": dict.fromkeys(CLASSES, 8), "test": dict.fromkeys(CLASSES, 2)}
    root = tmp_path_factory.mktemp("cifar") / "images"
    return write_folder(root, counts, lambda number: noise_image(number, (32, 32)))


def exhibit(name: str, value: float = TINY):
    return EXHIBITS[name](Scale(value, Path("cifar"), Path("imagenet")))


def test_all_tables_and_figures_are_registered() -> None:
    tables = [f"table {number}" for number in TABLES]
    assert set(EXHIBITS) == {*tables, *(f"figure {number}" for number in FIGURES)}
    assert [TABLES[0], TABLES[-1], FIGURES[0], FIGURES[-1]] == [2, 11, 1, 7]  # as in --help


@pytest.mark.parametrize("value", [1.0, TINY])
@pytest.mark.parametrize("name", ALL)
def test_every_plan(
    name: str, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "seconds_per_pass", lambda *_: 0.001)
    made = exhibit(name, value)
    assert f"{made.kind} {made.number}" == name
    assert len({(cell.row, cell.column) for cell in made.cells}) == len(made.cells)
    trainings = made.trainings()
    for place, training in enumerate(trainings):
        assert training.start is None or training.start in trainings[:place]
    assert len({training.key for training in trainings}) == len(trainings)
    console = Console(file=io.StringIO(), width=180)
    plan.Plan(made, Store(tmp_path, made.scale, CPU)).print_to(console)
    shown = console.file.getvalue()
    assert f"to do: {len(trainings)} trainings" in shown
    for training in trainings:
        assert training.label in shown
    assert list(tmp_path.iterdir()) == []
    title = headline(made)
    assert "with the paper's sizes" not in title  # nothing has run
    scaled = "SCALED DOWN (--scale 1e-06): these numbers are not comparable to the paper's"
    assert (scaled in title) == (value != 1)


def test_scale_1_has_the_papers_sizes() -> None:
    full = Scale(1)
    training = full.train("vgg16", "natural")
    assert (training["arch"], training["epochs"], training.limit) == ("cifar_vgg16", 200, None)
    assert training["batch_size"] == 128 and full.test_images() == 10_000
    archs = {
        number: {one["arch"] for one in exhibit(f"table {number}", 1.0).trainings()}
        for number in (2, 4, 5, 10)
    }
    assert archs[2] == {"cifar_vgg16", "cifar_wrn34_10"} and archs[5] == {"cifar_wrn34_10"}
    assert archs[4] == {"resnet152"} and archs[10] == {"resnet50"}
    steps = {
        name: (measurement.options["steps"], measurement.options.get("restarts", 1))
        for measurements in exhibit("table 2", 1.0).measured().values()
        for name, measurement in measurements.items()
        if isinstance(measurement, AttackMeasurement)
    }
    assert steps == {
        "PGD-20 at 0.03": (20, 1),
        "PGD-100 at 0.03": (100, 1),
        "PGD-200 at 0.03": (200, 1),
        "10x PGD-100 at 0.03": (100, 10),
    }
    # SPROUT starts from the natural model, the others from random weights.
    starts = {one["method"]: one.start for one in exhibit("table 9", 1.0).trainings()}
    assert starts["sprout"]["method"] == "natural"
    assert all(start is None for method, start in starts.items() if method != "sprout")


@pytest.mark.parametrize("value", [1e-6, 1e-4, 1e-3, 0.01, 0.3])
def test_rules_of_the_scale(value: float) -> None:
    scale, root = Scale(value), math.sqrt(value)
    assert scale.train_images() == max(64, round(50_000 * root))
    assert scale.train("vgg16", "natural")["epochs"] == max(1, round(200 * root))
    assert scale.test_images() == max(10, round(10_000 * root))
    assert scale.setting().scaled(100, 3) == max(3, round(100 * value**0.25))
    small = scale.arch("vgg16") != "cifar_vgg16"
    assert small == (value < 0.1)
    assert scale.train_images() // scale.batch_size() >= 32 or scale.batch_size() == 8
    lines = differences(EXHIBITS["table 7"](scale), FakeStore())
    assert any("instead of VGG-16" in line for line in lines) == small


#: docs/method.md, "The paper's figures": one entry per row of each table.
METHOD = {
    2: """natural 93.34/0.6/0.1/0.0/0.0; adv 80.32/36.63/36.29/36.01/36.8;
          TRADES 84.85/38.81/38.21/37.95/37.94; SPROUT 89.15/62.24/58.93/57.9/58.08;
          natural 95.93/0/0/0/0; adv 87.25/45.91/45.32/45.02/44.98;
          TRADES 84.92/56.23/56.13/55.96/56.01; SPROUT 90.56/66.23/64.58/64.30/64.32""",
    3: "adv 79.13/85.84; TRADES 83.53/83.9; SPROUT 86.28/89.1",
    4: "natural 78.31/37.13/9.14/2.12/0.78; SPROUT 74.23/65.24/52.86/35.04/12.18",
    5: """natural 88.21/93.4/91.88/91.95; adv 82.66/83.64/84.99/81.08;
          TRADES 80.81/81.5/83.08/79.27; SPROUT 85.95/88.26/86.98/81.64""",
    6: """natural 146.7/1449.6; adv 1327.1/14246.1; TRADES 1932.5/22438.4; Free 2053.1/20652.5;
          SPROUT 271.7/2727.8""",
    7: """GA 12.44/9.46; Mixup .76/.08; Dirichlet 29.64/9.77; GA+Mixup 41.88/40.29;
          Mixup+Dirichlet 17.53/7.97; GA+Dirichlet 55.27/53.79; LS 15.36/5.12;
          SPROUT 62.64/58.93""",
    8: """natural 95.93/0/26.95/91.88/146.7; adv 84.92/36.29/70.13/84.99/1327.1;
          TRADES 88.6/38.29/75.08/83.08/1932.5; SPROUT 90.56/58.93/72.7/86.98/271.7""",
    9: """adv 45.88/45.67/45.52/45.52/45.21; TRADES 57.02/56.84/56.77/56.7/56.7;
          SPROUT 64.58/62.53/61.98/61.38/61.00/61.18""",
    10: """natural 76.15/24.37/3.54/.90/.40; Free 60.49/51.35/42.29/32.96/24.45;
           SPROUT 61.23/51.69/38.14/25.98/18.52""",
    11: "SPROUT .1023/.0163/.0111",
}


@pytest.mark.parametrize("number", METHOD)
def test_published_numbers_match_docs_method_md(number: int) -> None:
    made = exhibit(f"table {number}", 1.0)
    names = {"adv": "adversarial training", "Free": "Free adversarial training"}
    names |= {"LS": "uniform label smoothing"}
    expected = []
    for line in METHOD[number].split(";"):
        name, numbers = line.split()
        expected.append((names.get(name, name), [float(one) for one in numbers.split("/")]))
    found = [
        (row, [cell.published for cell in made.cells if cell.row == row]) for row in made.rows()
    ]
    assert [numbers for _, numbers in found] == [numbers for _, numbers in expected]
    for (row, _), (name, _) in zip(found, expected, strict=True):
        assert re.sub(r"[ -]", "", row).endswith(re.sub(r"[ -]", "", name)), (row, name)


class FakeStore:
    """A store with random results."""

    out, device, timing_budget, amp = Path("out"), CPU, 1.0, "none"

    def __init__(self, sizes: store.Counts | None = None, rounds: int = 2) -> None:
        self.sizes, self.rounds = sizes, rounds
        self.generator = torch.Generator().manual_seed(0)

    def epochs_done(self, training) -> int:
        return training["epochs"]

    def folder(self, training) -> Path:
        return self.out / training.name

    def described(self, dataset) -> str:
        return "random"

    def counts(self, dataset) -> store.Counts:
        return self.sizes or store.Counts(
            dataset.train_images, dataset.test_images, dataset.classes
        )

    def config(self, training) -> dict:
        resolved = {"lr": 0.1, "warmup_epochs": 0.5, "weight_decay": 5e-4, "schedule": "cosine"}
        return resolved | dict(training.options)

    def images(self, dataset):
        return store.Images(torch.zeros(20, 3, 2, 2), torch.zeros(20), CLASSES, 20, "random")

    def measure(self, training, source, measurements: list[Measurement]) -> dict[str, Record]:
        return {one.name: self.record(one) for one in measurements}

    def record(self, one: Measurement) -> Record:
        def drawn(*shape: int) -> torch.Tensor:
            return torch.rand(shape, generator=self.generator)

        columns = {}
        if isinstance(one, Landscape):
            columns = {"loss": drawn(20, one.points, one.points)}
        elif isinstance(one, Diversity):
            columns = {name: drawn(20) for name in ("dirichlet_mixup", "dirichlet_ga", "mixup_ga")}
        misclassified = drawn(20) < 0.5
        return AccuracyRecord(
            one.name, {}, 20, torch.arange(20), columns, misclassified=misclassified
        )

    def beta(self, training) -> tuple[list[str], torch.Tensor]:
        return CLASSES, torch.rand(10, generator=self.generator)

    def seconds(self, arch: str) -> dict[str, list[float]]:
        return {
            name: [float(place + number) for number in range(self.rounds)]
            for place, name in enumerate(TIMED_METHODS, 1)
        }


@pytest.mark.parametrize("name", ALL)
def test_all_output_files(name: str, tmp_path: Path) -> None:
    made = exhibit(name)
    results = SideBySide(Findings(made, FakeStore(), print), FakeStore(), ["--table", "0"])
    paths = results.write(tmp_path)
    is_figure = made.kind == "figure"
    assert [path.suffix for path in paths] == [".md", ".json", *[".png"] * is_figure]
    content = json.loads(paths[1].read_text())
    assert len(content["cells"]) == len(made.cells) and not content["comparable_in_size"]
    text = paths[0].read_text()
    assert text.splitlines()[0] == headline(made, ["some"])
    assert all(f"- {note}" in text for note in (*made.chosen, *made.footnotes))
    assert "scaled down" in text and (made.incomparable is None) == (not results.has_published)
    for cell in content["cells"]:
        if cell["images"] is not None:
            assert cell["low"] <= cell["measured"] <= cell["high"] and cell["images"] == 20
    if is_figure:
        assert min(Image.open(paths[2]).size) > 300


def lines_of(name: str, value: float = TINY, sizes: store.Counts | None = None) -> list[str]:
    return differences(exhibit(name, value), FakeStore(sizes))


@pytest.mark.parametrize("name", ALL)
def test_at_scale_1_nothing_differs_but_the_data_at_hand(name: str) -> None:
    assert lines_of(name, 1.0) == []
    made = exhibit(name, 1.0)
    lines = lines_of(name, 1.0, store.Counts(150, 50, 4))
    dataset = made.dataset
    expected = [f"training images: 150 instead of {dataset.train_images:,}"]
    expected += [f"classes: 4 instead of {dataset.classes:,}"]
    if made.measured() and name != "figure 2":  # whose landscape is a mean over 16 images
        expected += [f"test images: 50 instead of {dataset.test_images:,}"]
    assert lines == (expected if made.trainings() else [])
    ran = headline(made, lines)
    assert ran.startswith(f"{made.name} SCALED DOWN: these" if lines else f"{made.name}: ")
    assert ("with the paper's sizes" in ran) == (not lines)


def test_only_what_ran_is_said_to_be_scaled_down() -> None:
    assert lines_of("table 6") == [
        "cifar_resnet8 instead of VGG-16",
        "cifar_wrn10_1 instead of WRN-34-10",
    ]
    assert not any("test images" in line or "steps" in line for line in lines_of("figure 4"))
    assert "test images: 10 instead of 16" in lines_of("figure 2", 1.0, store.Counts(64, 10, 10))
    assert "epochs: 1 instead of 90 (natural), 2 (sprout)" in lines_of("table 4")
    assert "side of the images in pixels: 96 instead of 224" in lines_of("table 10")
    assert "C&W-l2 at 0.05: 32 steps and 2 binary searches instead of 1000 and 10" in (
        lines_of("table 8")
    )
    assert lines_of("figure 3")[-1] == "without WRN-34-5, WRN-34-10"
    assert "WRN-10" in exhibit("figure 3").title and "WRN-34" in exhibit("figure 3", 1.0).title
    assert "PGD with 3 steps" in exhibit("figure 3").title
    assert any("widths, here 1, 2, 4, and" in text for text in exhibit("figure 3").chosen)
    assert any("C&W's margin loss and 3 steps" in text for text in exhibit("figure 6").chosen)


def test_table_9_says_that_its_columns_are_equal_at_a_small_scale() -> None:
    same = [line for line in lines_of("table 9") if "are the same attack" in line]
    assert same == [
        "PGD-20 at 0.03, 3x PGD-20 at 0.03, 5x PGD-20 at 0.03, 8x PGD-20 at 0.03, 10x PGD-20 at"
        " 0.03, 10x PGD-100 at 0.03 are the same attack at this scale: they differ in their random"
        " numbers at most"
    ]
    assert not any("are the same attack" in line for line in lines_of("table 9", 0.5))


@pytest.mark.parametrize(
    ("rounds", "legend"),
    [
        (1, "Seconds: one round each, so without an interval."),
        (3, "Seconds: medians over 3 rounds, with quartiles where there are several."),
    ],
)
def test_seconds_of_one_round_have_no_quartiles(rounds: int, legend: str) -> None:
    made, kept = exhibit("table 6"), FakeStore(rounds=rounds)
    results = SideBySide(Findings(made, kept, print), kept, [])
    text = results._markdown()
    assert legend in text and ("2 (1.5 to 2.5)" in text) == (rounds == 3)
    assert "confidence intervals" not in text and "trainings:" not in text
    assert any("pgd_at makes 7 attack steps" in line for line in timing_lines(made, kept))


def test_trainings_are_described_by_their_own_options() -> None:
    lines = training_lines(exhibit("table 10"), FakeStore(store.Counts(150, 50, 10)))
    assert lines[0].startswith("resnet18, natural; resnet18, free_at: 1 epoch of 150 images of 96")
    assert lines[1].startswith("resnet18, sprout, initialized from natural: 1 epoch of 150 images")
    assert "schedule cosine" in lines[0] and "schedule stages" in lines[1]
    assert "options of free_at: eps 0.01569, replays 8" in lines
    assert f"1/({round(1 / (10 * SproutLoss(10).beta_lr))} K) per image" in TRAINING_CHOSEN[1]


def test_figure_7_has_the_papers_networks_and_starts() -> None:
    made = exhibit("figure 7", 1.0)
    (steps_rows, steps), (start_rows, balls) = made.parts()
    assert steps_rows == ["natural", "adversarial training", "TRADES", "SPROUT"]
    assert steps == [f"PGD {steps}" for steps in (10, 20, 50, 100, 200, 500)]
    assert len(start_rows) == 6 and len(balls) == 8 and balls[0] == "eps 0"
    archs = {
        rows[0]: {
            cell.source.training["arch"]
            for cell in made.cells
            if isinstance(cell.source, Measured) and cell.row in rows
        }
        for rows in (steps_rows, start_rows)
    }
    assert list(archs.values()) == [{"cifar_wrn34_10"}, {"cifar_vgg16"}]
    starts = {
        cell.row: cell.source.training.start and cell.source.training.start["method"]
        for cell in made.cells
        if isinstance(cell.source, Measured) and cell.row in start_rows
    }
    assert [*starts.values()] == ["natural", None, "pgd_at", "trades", "natural", "natural"]


def test_figure_1_divides_by_the_best_of_each_dimension() -> None:
    made = exhibit("figure 1")
    of_paper = made.remarks(Findings(made, FakeStore(), print))[1]
    # As in the figure's caption, but for adversarial training.
    assert of_paper.endswith(
        "natural 0.6718, adversarial training 0.6941, TRADES 0.7107, SPROUT 0.8798"
    )
    assert any("0.6941" in note for note in made.footnotes)


def test_imagenet_tables_say_what_the_paper_did() -> None:
    for name in ("table 4", "table 6", "table 10"):
        assert any("little more than one further epoch" in note for note in exhibit(name).footnotes)
    trained = {one["method"]: one for one in exhibit("table 10", 1.0).trainings()}
    epochs = {method: one["epochs"] for method, one in trained.items()}
    assert epochs == {"natural": 90, "free_at": 11, "sprout": 2}


def test_equal_work_has_equal_estimates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = iter((0.25, 0.5))
    monkeypatch.setattr(store, "_trial", lambda *_: next(trials))
    shown = []
    for name in ("table 8", "figure 1"):
        console = Console(file=io.StringIO(), width=180)
        made = exhibit(name)
        plan.Plan(made, Store(tmp_path, made.scale, CPU)).print_to(console)
        shown.append(console.file.getvalue())
    assert shown[0] == shown[1] and next(trials) == 0.5


def test_a_plan_counts_the_images_that_there_are(images: Path, tmp_path: Path) -> None:
    def counts(value: float, dataset=CIFAR, **folders: Path) -> tuple[int, int]:
        return Store(tmp_path, Scale(value, **folders), CPU).expected_counts(dataset)

    assert counts(1.0) == (50_000, 10_000)  # as --plan assumes without data
    assert counts(TINY) == (64, 10)
    assert counts(1.0, data=images) == (80, 20)
    assert counts(TINY, data=images) == (64, 10)
    assert counts(0.5, data=images) == (80, 20)
    few = Scale(TINY).test_images(IMAGENET)
    assert few == 50 and counts(TINY, IMAGENET, imagenet=images) == (80, 20)
    found = Store(tmp_path, Scale(TINY, data=images), CPU)
    assert found.expected_counts(CIFAR) == tuple(found.counts(CIFAR))[:2]


def test_timings_are_those_of_this_torch_and_planned_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, times = exhibit("table 6"), iter(range(100))

    def timed(self: Store, arch: str) -> dict[str, list[float]]:
        return dict.fromkeys(TIMED_METHODS, [float(next(times))])

    monkeypatch.setattr(Store, "_time_methods", timed)
    monkeypatch.setattr(Store, "timing_budget", 7200.0)
    kept = Store(tmp_path, made.scale, CPU)

    def total() -> str:
        return " ".join(plan.Plan(made, kept)._total())

    arch, _ = made.timed()
    assert "about 4.0 h for training and timing" in total()
    first = kept.seconds(arch)
    assert kept.seconds(arch) == first
    assert "about 2.0 h for training and timing" in total()
    monkeypatch.setattr(torch, "__version__", "3.0.0")
    assert not kept.is_timed(arch) and kept.seconds(arch) != first


def test_the_estimate_knows_that_cw_ends_early_and_what_a_diversity_costs() -> None:
    made = exhibit("table 8", 1.0)
    passes = {
        name: plan.passes_of(one)
        for named in made.measured().values()
        for name, one in named.items()
    }
    assert passes == {"clean": 1, "PGD-100 at 0.03": 100, "C&W-l2 at 0.05": 1800, "contrast x 2": 1}
    (diversity,) = next(iter(exhibit("table 11").measured().values())).values()
    assert plan.passes_of(diversity) == 30


def test_a_training_error_names_no_option_of_another_tool(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def failing(*_: object) -> int:
        raise UserError("64: larger than the training set", option="batch_size")

    monkeypatch.setattr(store, "train", failing)
    assert run(images, tmp_path, "--table", "11") == 2
    error = capsys.readouterr().err
    assert "cifar_resnet8, natural: batch_size 64: larger than" in error and "--" not in error


def test_an_unavailable_attack_is_an_error() -> None:
    made = exhibit("table 3")
    findings = Findings(made, FakeStore(), print)
    for records in findings._records.values():
        for record in records.values():
            record.unavailable = "no source"
    with pytest.raises(UserError, match=r"Table 3: transfer at 0\.03: no source"):
        findings.value(made.cells[0])


def run(images: Path, out: Path, *argv: str) -> int:
    data = ["--data", str(images), "--scale", str(TINY), "--device", "cpu", "--out", str(out)]
    return main([*argv, *data])


def test_tables_7_and_2_run_and_finished_work_is_reused(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    calls = {"train": 0, "measure": 0, "step": 0}
    stop_at = {}

    def counted(owner: object, name: str, kind: str) -> None:
        original = getattr(owner, name)

        def wrapper(*args, **kwargs):
            calls[kind] += 1
            if calls[kind] == stop_at.get(kind):
                signal.raise_signal(signal.SIGINT)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapper)

    counted(store, "train", "train")
    counted(Sprout, "training_step", "step")
    counted(AttackMeasurement, "measure", "measure")

    # Ctrl-C in the fifth of eight steps of the second training by SPROUT.
    stop_at["step"] = 13
    assert run(images, tmp_path, "--table", "7") == 130
    assert "rerun the command to resume" in capsys.readouterr().out
    made = EXHIBITS["table 7"](Scale(TINY, images))
    folders = [tmp_path / "models" / training.name for training in made.trainings()]
    stopped = read_checkpoint(folders[2] / "last.pt")
    assert (stopped["epoch"], stopped["step"]) == (0, 5) and not folders[3].exists()
    assert calls == {"train": 3, "measure": 0, "step": 13}

    # The training resumes with the sixth step; then Ctrl-C in the second attack.
    stop_at.update(step=None, measure=2)
    assert run(images, tmp_path, "--table", "7") == 130
    assert f"resuming from {folders[2] / 'last.pt'} after epoch 0, step 5" in (
        capsys.readouterr().out
    )
    resumed = read_checkpoint(folders[2] / "last.pt")
    assert (resumed["epoch"], resumed["step"]) == (1, 8)
    assert resumed["config"]["lr"] == stopped["config"]["lr"] == pytest.approx(0.1 * 8 / 1280)
    assert calls == {"train": 3 + 7, "measure": 2, "step": 13 + 3 + 6 * 8}

    # All trainings and an attack are finished. There are sixteen attacks, minus those on models
    # that misclassify every image.
    stop_at.clear()
    before = dict(calls)
    assert run(images, tmp_path, "--table", "7") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Table 7 SCALED DOWN (--scale 1e-06): these numbers are not comparable")
    assert "to do: 0 trainings" in shown and "cifar_resnet8 instead of VGG-16" in shown
    assert f"- 64 training and 10 test images of 10 classes, {images}, balanced, seed 0" in shown
    assert "PGD-100 at 0.03: 3 steps instead of 100" in shown
    # Of the trainings' options, those that the checkpoints hold.
    assert (
        "1 epoch of 64 images of 32 pixels, batch size 8, SGD with peak learning rate 0.00062"
        in (shown)
    )
    content = json.loads((tmp_path / "table_7.json").read_text())
    assert len(content["cells"]) == 16
    assert calls["train"] == before["train"] and calls["step"] == before["step"]
    assert 0 < calls["measure"] - before["measure"] <= 15

    # Nothing is left to do. Table 2 shares two of its eight trainings.
    before = dict(calls)
    assert run(images, tmp_path, "--table", "7") == 0
    assert calls == before
    assert json.loads((tmp_path / "table_7.json").read_text())["cells"] == content["cells"]
    capsys.readouterr()
    assert run(images, tmp_path, "--table", "2") == 0
    assert calls["train"] - before["train"] == 6
    assert "10x PGD-100" in capsys.readouterr().out

    # The clean column is the checkpoints' accuracy on the test images of the subset.
    content = json.loads((tmp_path / "table_2.json").read_text())
    clean = [cell["measured"] for cell in content["cells"] if cell["column"] == "clean"]
    (subset,) = tmp_path.glob("cifar-10-*")
    split = read_images(subset, loader="memory")
    batches = [(split.images, split.labels)]
    made = EXHIBITS["table 2"](Scale(TINY, images))
    models = dict.fromkeys(cell.source.training for cell in made.cells)
    for training, ours in zip(models, clean, strict=True):
        model = load_model(tmp_path / "models" / training.name / "last.pt")
        assert ours == 100 * measure_accuracy(model, batches, device=CPU).clean.top1
    clean_of = dict(zip(made.rows(), clean, strict=True))
    assert all(cell["measured"] <= clean_of[cell["row"]] for cell in content["cells"])


def test_seconds_are_for_ten_epochs_and_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def measured(contestants, *_, **options) -> Timings:
        asked.append([one.name for one in contestants])
        return Timings(1, {one.name: {0: 0.5, 1: 1.0} for one in contestants})

    monkeypatch.setattr(store, "measure", measured)
    kept = Store(tmp_path, Scale(TINY), CPU)
    for _ in range(2):
        found = kept.seconds("cifar_resnet8")
        assert found == {name: [0.5 * 500_000 / 128, 500_000 / 128] for name in TIMED_METHODS}
    assert [sorted(names) for names in asked] == [sorted(TIMED_METHODS)]


def test_a_subset_has_every_class_and_is_written_once(images: Path, tmp_path: Path) -> None:
    for dataset, suffix in ((CIFAR, ".png"), (IMAGENET, ".jpg")):
        sizes = {"train": 33, "test": 3}
        subset = subset_folder(images, dataset, tmp_path, **sizes, seed=1)
        whole, found = scan(images), scan(subset)
        assert found.classes == CLASSES
        # At least one image of each class.
        assert (len(found.train), len(found.val)) == (33, 10)
        assert found.val.labels.tolist() == list(range(10))
        files = sorted(subset.rglob(f"*{suffix}"))
        assert len(files) == 43 and files[0].is_symlink() == (dataset is IMAGENET)
        known = {image.tobytes() for image in whole.train.decode()}
        assert all(image.tobytes() in known for image in found.train.decode())
        stamp = subset.stat().st_mtime_ns
        assert subset_folder(images, dataset, tmp_path, **sizes, seed=1) == subset
        assert subset.stat().st_mtime_ns == stamp
        assert subset_folder(images, dataset, tmp_path, **sizes, seed=2) != subset
        # A subset that has lost an image is an error, not a smaller subset.
        files[0].unlink()
        with pytest.raises(UserError, match=r"has 42 images, expected the 43 of images\.txt"):
            subset_folder(images, dataset, tmp_path, **sizes, seed=1)


def test_two_processes_make_one_subset(images: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from reproduction.datasets import CIFAR\n"
        "from reproduction.subset_folder import subset_folder\n"
        "print(len(list(subset_folder(Path(sys.argv[1]), CIFAR, Path(sys.argv[2]),"
        " train=60, test=20, seed=0).glob('*/*/*'))))"
    )
    argv = [sys.executable, "-c", program, str(images), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TOOLS), *sys.path])}
    key = hashlib.sha256(f"{images.resolve()} 0".encode()).hexdigest()[:8]
    folder = tmp_path / f"cifar-10-60-20-{key}"
    with locked(folder):  # both wait for this process
        running = [
            subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment)
            for _ in range(2)
        ]
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("waiting for another process that works on")
        assert not folder.exists()
    shown = [process.communicate()[0].splitlines() for process in running]
    assert [lines[-1] for lines in shown] == ["80", "80"]
    assert [path for path in tmp_path.iterdir() if path.name[0] != "."] == [folder]


def test_an_interrupted_subset_leaves_nothing_behind(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    sizes = {"train": 20, "test": 10, "seed": 0}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(subsets, "_images", stop)  # after all images were written
        subset_folder(images, CIFAR, tmp_path, **sizes)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    assert len(list(subset_folder(images, CIFAR, tmp_path, **sizes).glob("*/*/*"))) == 30


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("", "expected one table or figure, got none"),
        ("--table 2 --figure 2", "expected one table or figure, got 2"),
        ("--table 1", "--table 1: expected 2 to 11"),
        ("--table 12", "--table 12: expected 2 to 11"),
        ("--figure 0", "--figure 0: expected 1 to 7"),
        ("--figure 8", "--figure 8: expected 1 to 7"),
        ("--table x", "--table x: "),
        ("--table 7", "--data is required for Table 7: the images of CIFAR-10"),
        ("--table 4 --data .", "--imagenet is required for Table 4: the images of ImageNet"),
        ("--table 7 --data nowhere", "--data nowhere: no such file or folder"),
        ("--table 10 --imagenet nowhere", "--imagenet nowhere: no such file or folder"),
        ("--table 7 --data . --scale 0", "--scale 0: expected a number above 0 and up to 1"),
        ("--table 7 --data . --scale 1.5", "--scale 1.5: expected a number above 0 and up to 1"),
        ("--table 7 --data . --scale nan", "--scale nan: expected a number above 0 and up to 1"),
        ("--table 7 --data . --seed -1", "--seed -1: must be >= 0"),
        ("--table 7 --data . --device tpu", "--device tpu: "),
        ("--tabel 7", "unknown option --tabel; did you mean --table?"),
    ],
)
def test_usage_errors_are_one_line(argv: str, message: str, capsys: pytest.CaptureFixture) -> None:
    assert main(argv.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("reproduce_paper.py: error: ") and error.count("\n") == 1
    assert message in error


def test_unsuitable_data_leaves_no_partial_subset(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "data" / "train").mkdir(parents=True)
    out = tmp_path / "out"
    assert run(tmp_path / "data", out, "--table", "11") == 2
    assert "no val/ or test/" in capsys.readouterr().err
    assert list(out.glob("cifar*")) == list(out.glob("models/*/*")) == []


def test_figure_4_requires_ten_classes() -> None:
    class Few(FakeStore):
        def beta(self, training) -> tuple[list[str], torch.Tensor]:
            return CLASSES[:3], torch.ones(3)

    made = exhibit("figure 4")
    findings = Findings(made, Few(), print)
    assert findings.value(made.cells[0]).number == 1
    with pytest.raises(UserError, match="expected CIFAR-10's 10 classes, got 3"):
        findings.value(made.cells[3])


def test_measured_cells_can_be_read_from_their_measurements(images: Path) -> None:
    """Run each kind of measurement once on an untrained network."""
    made = [EXHIBITS[name](Scale(TINY, images)) for name in ("table 11", "figure 2")]
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
    split = read_images(images, loader="memory")
    subject = store.Subject(model, "linear", 10)
    recorder = Recorder(subject, split.images, split.labels, batch_size=8)
    for one in made:
        for cell in one.cells:
            assert isinstance(cell.source, Measured)
            recorder.run([cell.source.measurement])
            value = cell.source.read(recorder.records[cell.source.measurement.name])
            assert value.low <= value.number <= value.high and value.images in (16, 20)
