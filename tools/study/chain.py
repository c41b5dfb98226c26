"""Trains and evaluates every stage of the study; what is done is not done again."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from sprout_fast.data.subsets import balanced_subset
from sprout_fast.data.validation import Images, read_images
from sprout_fast.distributed import pick_device
from sprout_fast.errors import UserError
from sprout_fast.evaluation.measurements import AttackMeasurement
from sprout_fast.evaluation.names import ProtocolName
from sprout_fast.evaluation.protocols import PAPER_EPS, PROTOCOLS, Setting
from sprout_fast.evaluation.recorder import AccuracyRecord, PrintProgress, Record, Recorder
from sprout_fast.evaluation.results import Results, versions
from sprout_fast.evaluation.run import evaluate
from sprout_fast.evaluation.subject import Subject
from sprout_fast.files import write_json
from sprout_fast.models.checkpoint import load_model, read_checkpoint
from sprout_fast.training.checkpoint import newest_checkpoint
from sprout_fast.training.command import read_recipe
from sprout_fast.training.config import CifarConfig
from sprout_fast.training.run import train
from study.options import Options
from study.page import accuracy_table, check_page, name_of, update
from study.stages import Size, Stage, needed, size_of, smoothing_at, stages

# Of the protocol "paper", by the names of the table's columns.
PAPER_ATTACKS = {
    "PGD-20": f"PGD-20 at {PAPER_EPS:g}",
    "PGD-100": f"PGD-100 at {PAPER_EPS:g}",
    "10 x PGD-100": f"10x PGD-100 at {PAPER_EPS:g}",
    "margin PGD-100": f"C&W-linf at {PAPER_EPS:g}",
    "transfer": f"transfer at {PAPER_EPS:g}",
}
STRONG_EPS = {"strong, 0.03": PAPER_EPS, "strong, 8/255": 8 / 255}
#: Number of epochs between the checkpoints on which robustness over training is measured.
SNAPSHOT_EVERY = 5
_SNAPSHOT_IMAGES = 500


class Chain:
    """The stages of one size, below one folder.

    ``OUT/NAME`` is a training's run folder, ``OUT/NAME/evaluation`` holds its cached measurements,
    ``OUT/NAME/row.json`` its numbers once it is complete, and ``OUT/study.json`` those of all.
    Several processes may work on different stages at once, after those that they start from.

    Args:
        out: folder of the study.
        size: what it costs.
        data: CIFAR-10 in any form that the training tool accepts.
        device: where everything runs.
        seed: of every training and evaluation.
        compiled: whether training compiles the networks.
        say: called with one line before each training and evaluation.
    """

    def __init__(
        self,
        out: Path,
        size: Size,
        data: Path,
        device: torch.device,
        seed: int = 0,
        compiled: bool = False,
        say: Callable[[str], None] = print,
    ) -> None:
        self.out, self.size, self.data, self.device, self.seed = out, size, data, device, seed
        self._compile = "default" if compiled else None
        self._say = say
        self._batch_size = 1000 if device.type == "cuda" else 100
        self._images: Images | None = None

    def run(self, rows: Sequence[str]) -> dict[str, Any]:
        """Train and evaluate what is missing and return the content of ``study.json``.

        Args:
            rows: names of the stages to train and evaluate, with those that they start from.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM; run again to resume.
            UserError: the folder holds a stage that was trained with other options.
        """
        planned = stages(self.size)
        wanted = needed(planned, rows)
        # Every network first: the evaluations are the part that a reader can do without for a day.
        for stage in wanted:
            self._train(stage)
        for stage in wanted:
            if stage.name in rows and not self._row(stage).exists():
                row = self._evaluate(stage) | {"date": str(date.today()), "versions": versions()}
                write_json(self._row(stage), row)
        study = {
            "size": dataclasses.asdict(self.size),
            "seed": self.seed,
            "rows": {
                stage.name: json.loads(self._row(stage).read_text())
                for stage in planned
                if self._row(stage).exists()
            },
        }
        write_json(self.out / "study.json", study)
        return study

    def _row(self, stage: Stage) -> Path:
        return self.folder(stage.name) / "row.json"

    def folder(self, name: str) -> Path:
        """Return the run folder of a stage."""
        return self.out / name

    def checkpoint(self, name: str) -> Path:
        """Return the path of a stage's last checkpoint."""
        return self.folder(name) / "last.pt"

    def _config(self, stage: Stage) -> CifarConfig:
        values: dict[str, Any] = {} if stage.recipe is None else read_recipe(stage.recipe)
        values |= stage.options
        if stage.mass_of is not None:
            values["alpha"] = smoothing_at(self._last_mass(stage.mass_of), num_classes=10)
        return CifarConfig(
            **values
            | {
                "arch": self.size.arch,
                "epochs": stage.epochs,
                "data": self.data,
                "weights": None if stage.start is None else self.checkpoint(stage.start),
                "out": self.folder(stage.name),
                "device": str(self.device),
                "cuda_graph": self.device.type == "cuda",
                "compile": self._compile,
                "seed": self.seed,
                "keep_every": min(SNAPSHOT_EVERY, stage.epochs),
                "save_every": "5m",
                "final_attack_images": 0,
            }
        )

    def _train(self, stage: Stage) -> None:
        config = self._config(stage)
        path, content, problems = newest_checkpoint(self.folder(stage.name))
        for problem in problems:
            self._say(f"warning: {problem}")
        if content is not None:
            self._check_same(stage, config, content["config"])
            if content["epoch"] >= stage.epochs:
                return
            # The weights that it started from are in the checkpoint.
            config = dataclasses.replace(
                config, resume=path, weights=None, lr=content["config"]["lr"]
            )
        self._say(f"\ntraining {stage.title}: {config.arch}, {stage.epochs} epochs")
        if status := train(config, content):
            raise KeyboardInterrupt(status)

    def _check_same(self, stage: Stage, config: CifarConfig, stored: dict[str, Any]) -> None:
        wanted = config.stored()
        ignored = {"data", "out", "weights", "device", "cuda_graph", "compile"}
        ignored |= {"keep_every", "save_every"}
        for name, value in wanted.items():
            if name in ignored or value is None or name not in stored:
                continue
            if stored[name] != value:
                raise UserError(
                    f"{self.folder(stage.name)}: trained with {name} {stored[name]}, this study "
                    f"wants {value}; choose another folder",
                    option="out",
                )

    def _metrics(self, name: str) -> list[dict[str, str]]:
        with open(self.folder(name) / "metrics.csv", newline="") as file:
            return list(csv.DictReader(file))

    def _last_mass(self, name: str) -> float:
        return float(self._metrics(name)[-1]["true_class_mass"])

    def _validation(self) -> Images:
        if self._images is None:
            self._images = read_images(
                self.data, loader="memory", image_size=32, limit=self.size.test_images
            )
        return self._images

    def _subject(self, stage: Stage, path: Path) -> Subject:
        content = read_checkpoint(path)
        natural = None if stage.start is None else load_model(self.checkpoint("natural"))
        return Subject(
            load_model(path).to(self.device),
            f"{self.size.arch}, {stage.title}",
            content["config"]["num_classes"],
            surrogate=None if natural is None else natural.to(self.device),
            surrogate_name="" if natural is None else "natural",
            beta=content["beta"],
            alpha=content["config"].get("alpha") or Subject.alpha,
            config=content["config"],
        )

    def _evaluate(self, stage: Stage) -> dict[str, Any]:
        self._say(f"\nevaluating {stage.title}")
        cache = self.folder(stage.name) / "evaluation"
        subject = self._subject(stage, self.checkpoint(stage.name))
        records = self._paper_records(subject, cache)
        row: dict[str, Any] = {"title": stage.title, "epochs": stage.epochs}
        row["accuracy"] = {
            column: _counts(record)
            for column, name in {"clean": "clean", **PAPER_ATTACKS}.items()
            if (record := records[name]).unavailable is None
        }
        for column, eps in STRONG_EPS.items():
            results = self._run_protocol(subject, "strong", eps, self.size.strong_images, cache)
            row["accuracy"][column] = {
                "correct": results.robust.correct,
                "total": results.robust.total,
            }
        audit = self._run_protocol(subject, "audit", 8 / 255, self.size.audit_images, cache).audit
        row["audit"] = {"failed": [check.name for check in audit.failed], "ran": len(audit.ran)}
        clean = records["clean"].columns
        row["logits"] = {
            "mean_margin": clean["margin"].double().mean().item(),
            "mean_confidence": clean["confidence"].double().mean().item(),
        }
        row["landscape"] = records["loss landscape"].columns["loss"].double().mean(0).tolist()
        row["snapshots"] = self._snapshots(stage, cache)
        row["labels"] = [
            {"epoch": int(one["epoch"]), "mass": float(mass), "beta": float(one["beta_mean"])}
            for one in self._metrics(stage.name)
            if (mass := one.get("true_class_mass"))
        ]
        row["hours"] = sum(float(one["seconds"]) for one in self._metrics(stage.name)) / 3600
        return row

    def _setting(self) -> Setting:
        return Setting("linf", PAPER_EPS, 10, 32, self.size.attack_scale)

    def _paper_records(self, subject: Subject, cache: Path) -> dict[str, Record]:
        wanted = {"clean", "loss landscape", *PAPER_ATTACKS.values()}
        measurements = [one for one in PROTOCOLS["paper"](self._setting()) if one.name in wanted]
        return self._recorded(subject, measurements, cache)

    def _recorded(self, subject: Subject, measurements: list, cache: Path) -> dict[str, Record]:
        found = self._validation()
        recorder = Recorder(
            subject,
            found.images,
            found.labels,
            batch_size=self._batch_size,
            seed=self.seed,
            cache_dir=cache / "parts",
            gallery=0,
            progress=PrintProgress(),
        )
        recorder.run(measurements)
        return recorder.records

    def _run_protocol(
        self, subject: Subject, protocol: ProtocolName, eps: float, count: int, cache: Path
    ) -> Results:
        found = self._validation()
        some = balanced_subset(found.labels.numpy(), count, self.seed)
        return evaluate(
            subject,
            found.images[some],
            found.labels[some],
            protocol=protocol,
            eps=eps,
            batch_size=self._batch_size,
            seed=self.seed,
            scale=self.size.attack_scale,
            cache_dir=cache,
            progress=PrintProgress(),
        )

    def _snapshots(self, stage: Stage, cache: Path) -> list[dict[str, Any]]:
        """Clean and PGD-20 accuracy at every kept checkpoint."""
        pgd = next(
            one
            for one in PROTOCOLS["paper"](self._setting())
            if isinstance(one, AttackMeasurement) and one.name == PAPER_ATTACKS["PGD-20"]
        )
        found = self._validation()
        some = balanced_subset(found.labels.numpy(), _SNAPSHOT_IMAGES, self.seed)
        points = []
        for path in sorted(self.folder(stage.name).glob("epoch-*.pt")):
            epoch = int(path.stem.removeprefix("epoch-"))
            recorder = Recorder(
                self._subject(stage, path),
                found.images[some],
                found.labels[some],
                batch_size=self._batch_size,
                seed=self.seed,
                cache_dir=cache / path.stem,
                gallery=0,
            )
            recorder.run([PROTOCOLS["paper"](self._setting())[0], pgd])
            points.append(
                {
                    "epoch": epoch,
                    "clean": _counts(recorder.records["clean"]),
                    "PGD-20": _counts(recorder.records[pgd.name]),
                }
            )
        return points


def _counts(record: Record) -> dict[str, int]:
    assert isinstance(record, AccuracyRecord), record.name
    return {"correct": record.accuracy.correct, "total": record.accuracy.total}


def run_study(options: Options) -> int:
    """Run the study that ``options`` describe, print its table, and return the exit status."""
    size, device = size_of(options.scale), pick_device(options.device)
    rows = options.rows or size.rows
    if unknown := set(rows) - set(size.rows):
        message = f"{', '.join(sorted(unknown))}: expected any of {', '.join(size.rows)}"
        raise UserError(message, option="rows")
    if options.page is not None:
        check_page(options.page, name_of(size.arch, size.epochs))
    chain = Chain(options.out, size, options.data, device, options.seed, options.compile)
    study = chain.run(rows)
    print(f"\n{accuracy_table(study)}")
    if options.page is not None:
        update(options.page, study)
    return 0
