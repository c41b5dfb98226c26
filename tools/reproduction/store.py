"""The output folder, which keeps finished trainings, measurements and timings."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from training_benchmark.contestants import build_contestants, build_methods
from training_benchmark.rounds import measure
from training_benchmark.trainee import build_trainee, synthetic_batches

from reproduction.datasets import CIFAR, DataSet
from reproduction.scale import Scale
from reproduction.subset_folder import subset_folder
from reproduction.training import Training
from sprout_fast.data import default_loader
from sprout_fast.data.validation import Images, read_images
from sprout_fast.evaluation.measurements import Clean, Measurement
from sprout_fast.evaluation.recorder import PrintProgress, Record, Recorder
from sprout_fast.evaluation.subject import Subject
from sprout_fast.files import atomic_write
from sprout_fast.models import load_model, read_checkpoint
from sprout_fast.training.run import train

#: Methods of Table 6, always timed together because only ratios compare.
TIMED_METHODS = ("natural", "pgd_at", "trades", "free_at", "sprout")
_TIMED_BATCH, _TIMED_IMAGES = 128, 10 * 50_000


class Store:
    """Everything that has been trained, measured and timed in the folder ``out``.

    ``models/ARCH-METHOD-KEY`` contains a training, ``measured`` the results per image of each model
    and ``times`` the timings. A key is a hash of all options, so that results for other scales and
    seeds can share the folder.

    Args:
        out: the folder.
        scale: sizes of trainings and measurements.
        device: where to run them.
    """

    def __init__(self, out: Path, scale: Scale, device: torch.device) -> None:
        self.out, self.scale, self.device = out, scale, device
        self._images: dict[DataSet, Images] = {}

    def folder(self, training: Training) -> Path:
        """Return the folder of a training, whether or not it exists."""
        return self.out / "models" / training.name

    def checkpoint(self, training: Training) -> Path:
        """Return the path of a training's last checkpoint."""
        return self.folder(training) / "last.pt"

    def epochs_done(self, training: Training) -> int:
        """Return the number of finished epochs, 0 if the training has not started."""
        path = self.checkpoint(training)
        return read_checkpoint(path)["epoch"] if path.exists() else 0

    def train(self, training: Training) -> None:
        """Run or resume a training whose ``start`` is finished.

        Raises:
            KeyboardInterrupt: after Ctrl-C; the state has been saved.
            UserError, FatalError: raised by the trainer.
        """
        path = self.checkpoint(training)
        weights = None if training.start is None else self.checkpoint(training.start)
        config = training.config(
            self._data(training.dataset), self.folder(training), weights, str(self.device)
        )
        content = None
        if path.exists():
            content = read_checkpoint(path)
            # The checkpoint replaces the initial weights. The learning rate is kept explicitly,
            # since its default is ten times as high without ``weights``.
            config = dataclasses.replace(
                config, resume=path, weights=None, lr=content["config"]["lr"]
            )
        if train(config, content) != 0:
            raise KeyboardInterrupt

    def measure(
        self, training: Training, source: Training | None, measurements: list[Measurement]
    ) -> dict[str, Record]:
        """Return records by name, reusing earlier ones.

        Args:
            training: the model to measure.
            source: the model that transferred attacks are computed on.
            measurements: what to measure.
        """
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
            progress=PrintProgress(),
        )
        # Clean first, since attacks skip misclassified images.
        recorder.run([Clean(), *(one for one in measurements if one.name != Clean().name)])
        return recorder.records

    def beta(self, training: Training) -> tuple[list[str], torch.Tensor]:
        """Return the class names and SPROUT's beta, float32 [K]."""
        content = read_checkpoint(self.checkpoint(training))
        return content["config"]["classes"], content["beta"]

    def seconds(self, arch: str) -> dict[str, list[float]]:
        """Return seconds for ten epochs of 50,000 images by method, one value per round."""
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
                progress=lambda text: None,
            )
            steps = _TIMED_IMAGES / _TIMED_BATCH
            found = {name: [steps * one for one in timings.of(name)] for name in timings.seconds}
            write_json(path, found)
        return json.loads(path.read_text())

    @property
    def timing_budget(self) -> float:
        """Seconds of timing per network."""
        return max(5.0, 600 * self.scale.value**0.5)

    def images(self, dataset: DataSet) -> Images:
        """Return the test images to measure on."""
        if dataset not in self._images:
            self._images[dataset] = read_images(
                self._data(dataset),
                loader="memory" if dataset is CIFAR else default_loader(),
                image_size=self.scale.image_size(dataset),
            )
        return self._images[dataset]

    def described(self, dataset: DataSet) -> str:
        """Return the actual number of images in one line."""
        test = f"{len(self.images(dataset).labels):,} test images of {self._whole(dataset)}"
        if self.scale.is_full:
            return test
        train = sum(1 for _ in self._data(dataset).glob("train/*/*"))
        return f"{train:,} training and {test}, balanced over the classes, seed {self.scale.seed}"

    def _whole(self, dataset: DataSet) -> Path:
        path = self.scale.data if dataset is CIFAR else self.scale.imagenet
        assert path is not None, "checked by reproduction.command"
        return path

    def _data(self, dataset: DataSet) -> Path:
        """Return the folder to read: the data set, or its subset at this scale."""
        whole = self._whole(dataset)
        if self.scale.is_full:
            return whole
        train, test = self.scale.train_images(dataset), self.scale.test_images(dataset)
        return subset_folder(whole, dataset, self.out, train=train, test=test, seed=self.scale.seed)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
