"""The output folder, which keeps finished trainings, measurements and timings."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from training_benchmark.contestants import build_contestants, build_methods
from training_benchmark.machine import machine_info
from training_benchmark.rounds import Clock, measure, synchronize
from training_benchmark.trainee import build_trainee, synthetic_batches

from reproduction.datasets import CIFAR, DataSet
from reproduction.locks import locked
from reproduction.scale import Scale
from reproduction.subset_folder import subset_folder
from reproduction.training import Training
from sprout_fast.data import default_loader, scan
from sprout_fast.data.validation import Images, read_images
from sprout_fast.errors import UserError
from sprout_fast.evaluation.measurements import Clean, Measurement
from sprout_fast.evaluation.recorder import PrintProgress, Record, Recorder
from sprout_fast.evaluation.subject import Subject
from sprout_fast.files import write_json
from sprout_fast.methods import build_method
from sprout_fast.models import load_model, read_checkpoint
from sprout_fast.training.run import train

#: Methods of Table 6, always timed together because only ratios compare.
TIMED_METHODS = ("natural", "pgd_at", "trades", "free_at", "sprout")
TIMED_BATCH, TIMED_IMAGES, TIMED_SIDE = 128, 10 * 50_000, 32
# The command's own options; those of the trainer mean nothing to its user.
_OWN_OPTIONS = ("data", "imagenet", "device", "seed", "out")


class Counts(NamedTuple):
    """How many images and classes there are to train and measure on."""

    train: int
    test: int
    classes: int


class Store:
    """Everything that has been trained, measured and timed in the folder ``out``.

    ``models/ARCH-METHOD-KEY`` contains a training, ``measured`` the results per image of each model
    and ``times`` the timings. A key is a hash of all options, so that results for other scales and
    seeds can share the folder. So can several processes: each piece of work has a lock.

    Args:
        out: the folder.
        scale: sizes of trainings and measurements.
        device: where to run them.
    """

    def __init__(self, out: Path, scale: Scale, device: torch.device) -> None:
        self.out, self.scale, self.device = out, scale, device
        self._images: dict[DataSet, Images] = {}
        self._counts: dict[DataSet, Counts] = {}
        self._folders: dict[DataSet, Path] = {}

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

    def config(self, training: Training) -> Mapping[str, Any]:
        """Return all options that a training ran with, by name."""
        return read_checkpoint(self.checkpoint(training))["config"]

    def train(self, training: Training) -> None:
        """Run or resume a training whose ``start`` is finished.

        Raises:
            KeyboardInterrupt: after Ctrl-C; the state has been saved.
            UserError, FatalError: raised by the trainer.
        """
        with locked(self.folder(training)):
            if self.epochs_done(training) < training["epochs"]:  # else another process has run it
                try:
                    self._train(training)
                except UserError as error:
                    if error.option in _OWN_OPTIONS:
                        raise
                    raise UserError(f"{training.label}: {error}") from error

    def _train(self, training: Training) -> None:
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
        with locked(folder):
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
        return self._timed(arch, self.timing_budget, lambda: self._time_methods(arch))

    def _time_methods(self, arch: str) -> dict[str, list[float]]:
        trainee = build_trainee(
            arch,
            10,
            image_size=TIMED_SIDE,
            amp=self.amp,
            device=self.device,
        )
        contestants, _ = build_contestants(trainee, build_methods(trainee, TIMED_METHODS), [])
        timings = measure(
            contestants,
            synthetic_batches(trainee, TIMED_BATCH),
            Clock(trainee.world),
            base="natural",
            rounds=20,
            budget=self.timing_budget,
            every=True,
            progress=lambda text: None,
        )
        steps = TIMED_IMAGES / TIMED_BATCH
        return {name: [steps * one for one in timings.of(name)] for name in timings.seconds}

    def seconds_per_pass(self, arch: str, image_size: int) -> float:
        """Return seconds per image of a natural training step, from a trial of a few steps.

        The trial is made once, so that all exhibits that need the same work expect the same time.
        """
        return self._timed(
            arch, image_size, lambda: {"natural": [_trial(arch, image_size, self.device, self.amp)]}
        )["natural"][0]

    def _timed(
        self, arch: str, what: object, run: Callable[[], dict[str, list[float]]]
    ) -> dict[str, list[float]]:
        path = self._times(arch, what)
        with locked(path):
            if not path.exists():
                write_json(path, run())
        return json.loads(path.read_text())

    def _times(self, arch: str, what: object) -> Path:
        """Return the file of timings, which belong to a machine, its threads and a torch."""
        machine = machine_info(self.device)
        where = [machine[name] for name in ("gpu", "processor", "cores", "threads", "torch")]
        setting = [arch, str(self.device), what, *where]
        key = hashlib.sha256(json.dumps(setting).encode()).hexdigest()[:12]
        return self.out / "times" / f"{arch}-{key}.json"

    def is_timed(self, arch: str) -> bool:
        """Return whether :meth:`seconds` has its timings already."""
        return self._times(arch, self.timing_budget).exists()

    @property
    def amp(self) -> str:
        """Precision of what is timed: that of the trainings."""
        return "bf16" if self.device.type == "cuda" else "none"

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

    def counts(self, dataset: DataSet) -> Counts:
        """Return how many images and classes trainings and measurements have."""
        if dataset not in self._counts:
            found = scan(self._data(dataset))
            self._counts[dataset] = Counts(len(found.train), len(found.val), len(found.classes))
        return self._counts[dataset]

    def expected_counts(self, dataset: DataSet) -> tuple[int, int]:
        """Return how many training and test images a run will have, without making the subset.

        They are the scale's where the data set is not at hand, as ``--plan`` allows.
        """
        whole, scale = self.scale.data if dataset is CIFAR else self.scale.imagenet, self.scale
        full = dataset.train_images, dataset.test_images
        wanted = scale.train_images(dataset), scale.test_images(dataset)
        if whole is None or not whole.exists():
            return full if scale.is_full else wanted
        found = scan(whole)
        available = len(found.train), len(found.val)
        if scale.is_full:
            return available
        least = len(found.classes)
        train, test = (min(max(w, least), a) for w, a in zip(wanted, available, strict=True))
        return train, test

    def described(self, dataset: DataSet) -> str:
        """Return where the images are from, in one line."""
        counts, whole = self.counts(dataset), self._whole(dataset)
        text = (
            f"{counts.train:,} training and {counts.test:,} test images of {counts.classes:,}"
            f" classes, {whole}"
        )
        return text if self.scale.is_full else f"{text}, balanced, seed {self.scale.seed}"

    def _whole(self, dataset: DataSet) -> Path:
        path = self.scale.data if dataset is CIFAR else self.scale.imagenet
        assert path is not None, "checked by reproduction.command"
        return path

    def _data(self, dataset: DataSet) -> Path:
        """Return the folder to read: the data set, or its subset at this scale."""
        whole = self._whole(dataset)
        if self.scale.is_full:
            return whole
        if dataset not in self._folders:
            self._folders[dataset] = subset_folder(
                whole,
                dataset,
                self.out,
                train=self.scale.train_images(dataset),
                test=self.scale.test_images(dataset),
                seed=self.scale.seed,
            )
        return self._folders[dataset]


def _trial(arch: str, image_size: int, device: torch.device, amp: str) -> float:
    trainee = build_trainee(arch, 10, image_size=image_size, amp=amp, device=device)
    count = 32 if image_size <= 64 else 4
    batches = synthetic_batches(trainee, count)
    method = build_method("natural", trainee.setting).to(device)
    seconds = []
    for _ in range(5):  # the first warms up
        synchronize(device)
        start = time.perf_counter()
        method.training_step(trainee.optimize, *next(batches))
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:]) / count
