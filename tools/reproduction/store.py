"""The output folder: trainings, measurements and times that are done are not done again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from training_benchmark.contestants import build_contestants, build_methods
from training_benchmark.rounds import measure
from training_benchmark.trainee import build_trainee, synthetic_batches

from reproduction.datasets import CIFAR, DataSet
from reproduction.scale import Scale
from reproduction.subset_folder import part_of
from reproduction.training import Training
from sprout_fast.data import default_loader
from sprout_fast.evaluation.command import Lines
from sprout_fast.evaluation.images import Images, read_images
from sprout_fast.evaluation.measurements import Clean, Measurement
from sprout_fast.evaluation.recorder import Record, Recorder
from sprout_fast.evaluation.subject import Subject
from sprout_fast.models import load_model, read_checkpoint
from sprout_fast.training.run import train

#: Of Table 6; all are timed together, since ratios are what compares.
TIMED_METHODS = ("natural", "pgd_at", "trades", "free_at", "sprout")
_TIMED_BATCH, _TIMED_IMAGES = 128, 10 * 50_000


class Store:
    """What has been trained, measured and timed, under ``out``.

    ``models/ARCH-METHOD-KEY`` holds a training, ``measured`` the answers of each model's images,
    ``times`` seconds. A key is a hash of all options, so that other scales and seeds lie beside.

    Args:
        out: the folder.
        scale: of what is asked for.
        device: cuda, cuda:1, cpu.
    """

    def __init__(self, out: Path, scale: Scale, device: torch.device) -> None:
        self.out, self.scale, self.device = out, scale, device
        self._images: dict[DataSet, Images] = {}

    def folder(self, training: Training) -> Path:
        """Where a training is, or will be."""
        return self.out / "models" / training.name

    def checkpoint(self, training: Training) -> Path:
        """Its last weights."""
        return self.folder(training) / "last.pt"

    def epochs_done(self, training: Training) -> int:
        """0 where it has not begun."""
        path = self.checkpoint(training)
        return read_checkpoint(path)["epoch"] if path.exists() else 0

    def train(self, training: Training) -> None:
        """Run a training, or the rest of it; ``training.start`` is finished.

        Raises:
            KeyboardInterrupt: Ctrl-C; what is done is saved.
            UserError, FatalError: as the trainer does.
        """
        path = self.checkpoint(training)
        weights = None if training.start is None else self.checkpoint(training.start)
        config = training.config(
            self._data(training.dataset), self.folder(training), weights, str(self.device)
        )
        content = None
        if path.exists():
            content = read_checkpoint(path)
            # The weights that it began from are in the checkpoint. The learning rate is not chosen
            # again: without --weights it would be ten times as high.
            config = dataclasses.replace(
                config, resume=path, weights=None, lr=content["config"]["lr"]
            )
        if train(config, content) != 0:
            raise KeyboardInterrupt

    def measure(
        self, training: Training, source: Training | None, measurements: list[Measurement]
    ) -> dict[str, Record]:
        """Records by name; what ``measured`` holds is read from there."""
        path = self.checkpoint(training)
        content = read_checkpoint(path)
        subject = Subject(
            load_model(path, self.device),
            training.label,
            content["config"]["num_classes"],
            beta=content["beta"],
        )
        folder = self.out / "measured" / training.name
        if source is not None:
            subject.surrogate = load_model(self.checkpoint(source), self.device)
            folder = folder / f"from-{source.key}"
        images = self.images(training.dataset)
        recorder = Recorder(
            subject,
            images.images,
            images.labels,
            batch_size=100,
            seed=self.scale.seed,
            cache_dir=folder,
            gallery=0,
            progress=Lines(),
        )
        # Attacks leave out what is wrong by itself.
        recorder.run([Clean(), *(one for one in measurements if one.name != Clean().name)])
        return recorder.records

    def beta(self, training: Training) -> tuple[list[str], torch.Tensor]:
        """Class names and SPROUT's beta, float32 [K]."""
        content = read_checkpoint(self.checkpoint(training))
        return content["config"]["classes"], content["beta"]

    def seconds(self, arch: str) -> dict[str, list[float]]:
        """Of ten epochs of 50,000 images, by method: a number for each round of timing."""
        budget = self.timing_budget
        key = hashlib.sha256(f"{arch} {self.device} {budget}".encode()).hexdigest()[:12]
        path = self.out / "times" / f"{arch}-{key}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            trainee = build_trainee(
                arch,
                10,
                image_size=32,
                amp="bf16" if self.device.type == "cuda" else "none",
                device=self.device,
            )
            contestants, _ = build_contestants(trainee, build_methods(trainee, TIMED_METHODS), [])
            timings = measure(
                contestants,
                synthetic_batches(trainee, _TIMED_BATCH),
                self.device,
                base="natural",
                rounds=20,
                budget=budget,
                say=lambda text: None,
            )
            steps = _TIMED_IMAGES / _TIMED_BATCH
            found = {name: [steps * one for one in timings.of(name)] for name in timings.seconds}
            write_json(path, found)
        return json.loads(path.read_text())

    @property
    def timing_budget(self) -> float:
        """Seconds of timing for each network."""
        return max(5.0, 600 * self.scale.value**0.5)

    def images(self, of: DataSet) -> Images:
        """The test images that are measured on."""
        if of not in self._images:
            self._images[of] = read_images(
                self._data(of),
                loader="memory" if of is CIFAR else default_loader(),
                image_size=self.scale.image_size(of),
            )
        return self._images[of]

    def described(self, of: DataSet) -> str:
        """How many images there really are, in one line."""
        test = f"{len(self.images(of).labels):,} test images of {self._whole(of)}"
        if self.scale.is_full:
            return test
        train = sum(1 for _ in self._data(of).glob("train/*/*"))
        return f"{train:,} training and {test}, evenly over the classes, by seed {self.scale.seed}"

    def _whole(self, of: DataSet) -> Path:
        return self.scale.data if of is CIFAR else self.scale.imagenet

    def _data(self, of: DataSet) -> Path:
        """The folder to read: the data set, or its part at this scale."""
        whole = self._whole(of)
        if self.scale.is_full:
            return whole
        train, test = self.scale.train_images(of), self.scale.test_images(of)
        return part_of(whole, of, self.out, train=train, test=test, seed=self.scale.seed)


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all."""
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    os.replace(beside, path)
