"""The estimated cost of a table or figure: counts, and seconds from a short trial per network."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from training_benchmark.tables import console_table

from reproduction.exhibits.base import Exhibit
from reproduction.store import Store
from reproduction.training import Training
from sprout_fast.evaluation.measurements import (
    AttackMeasurement,
    Diversity,
    Landscape,
    Measurement,
)

# Share of C&W's steps that are made, since an image leaves a search that makes no progress: 1,746
# of 10 x 1000 for a ResNet-8's correctly classified images, of which 91 % withstand the attack.
_CW_SHARE = 0.18


def passes_of(measurement: Measurement) -> int:
    """Return the passes per image; for an attack, if the image withstands it.

    A pass of an attack is forward and backward.

    >>> passes_of(AttackMeasurement("ten starts", options={"steps": 20, "restarts": 10}))
    200
    """
    if isinstance(measurement, AttackMeasurement):
        options = measurement.options
        count = (
            options.get("steps", 1) * options.get("restarts", 1) * options.get("binary_searches", 1)
        )
        return round(_CW_SHARE * count) if measurement.attack == "cw_l2" else count
    if isinstance(measurement, Diversity):
        return 3 * measurement.draws  # one per module
    return measurement.points**2 if isinstance(measurement, Landscape) else 1


class Plan:
    """The work that an exhibit still needs."""

    def __init__(self, exhibit: Exhibit, store: Store) -> None:
        self.exhibit, self.store = exhibit, store
        self.trainings = exhibit.trainings()
        self.done = {one: store.epochs_done(one) for one in self.trainings}
        # Seconds alone need no images.
        needs_images = bool(self.trainings or exhibit.measured())
        counts = store.expected_counts(exhibit.dataset) if needs_images else (0, 0)
        self._train_images, self._test_images = counts

    def _training_passes(self, training: Training) -> int:
        """Return the number of images times passes of a whole training."""
        return self._train_images * training["epochs"] * training.passes

    def print_to(self, console: Console) -> None:
        """Print tables of trainings and measurements, and the total."""

        def line(text: str) -> None:
            console.print(text, markup=False, highlight=False, soft_wrap=True)

        if self.trainings:
            columns = ["training", "epochs", "images", "batch size", "image passes", "state"]
            console.print(console_table(columns, self._training_rows(), left=1))
            line("")
        if self.exhibit.measured():
            columns = ["measurement", "models", "images per model", "passes", "image passes"]
            console.print(console_table(columns, self._measurement_rows(), left=1))
            line("")
        for text in self._total():
            line(text)

    def _training_rows(self) -> Iterator[list[str]]:
        for training in self.trainings:
            done, epochs = self.done[training], training["epochs"]
            state = "done" if done >= epochs else f"{done} epochs done" if done else "to do"
            yield [
                training.label,
                f"{epochs:,}",
                f"{self._train_images:,}",
                str(training["batch_size"]),
                f"{self._training_passes(training):,}",
                state,
            ]

    def _measurement_rows(self) -> Iterator[list[str]]:
        models: dict[str, int] = {}
        named: dict[str, Measurement] = {}
        for measurements in self.exhibit.measured().values():
            for name, measurement in measurements.items():
                named[name] = measurement
                models[name] = models.get(name, 0) + 1
        for name, measurement in named.items():
            images = self._images(measurement)
            passes = images * models[name] * passes_of(measurement)
            yield [
                name,
                str(models[name]),
                f"{images:,}",
                f"{passes_of(measurement):,}",
                f"{passes:,}",
            ]

    def _images(self, measurement: Measurement) -> int:
        images = self._test_images
        return images if measurement.limit is None else min(measurement.limit, images)

    def _total(self) -> Iterator[str]:
        training: dict[str, float] = {}
        for one in self.trainings:
            left = 1 - min(1, self.done[one] / one["epochs"])
            passes = left * self._training_passes(one)
            training[one["arch"]] = training.get(one["arch"], 0) + passes
        attacks: dict[str, int] = {}
        for (model, _), measurements in self.exhibit.measured().items():
            passes = sum(self._images(one) * passes_of(one) for one in measurements.values())
            attacks[model["arch"]] = attacks.get(model["arch"], 0) + passes
        to_time = [arch for arch in self.exhibit.timed() if not self.store.is_timed(arch)]
        timing = self.store.timing_budget * len(to_time)
        yield (
            f"to do: {sum(self.done[one] < one['epochs'] for one in self.trainings)} trainings with"
            f" {sum(training.values()):,.0f} image passes (forward and backward), and measurements"
            f" with {sum(attacks.values()):,} if no attack succeeds (it drops images once"
            " misclassified)"
        )
        pass_seconds = {
            arch: self.store.seconds_per_pass(arch, self._side(arch)) for arch in training
        }
        train = sum(passes * pass_seconds[arch] for arch, passes in training.items())
        attack = sum(passes * pass_seconds[arch] for arch, passes in attacks.items())
        yield (
            f"estimated from a short trial on {self.store.device}: about"
            f" {duration(train + timing)} for training and timing, and {duration(attack)} or less"
            " for measurements (earlier ones are reused)"
        )

    def _side(self, arch: str) -> int:
        return next(one["image_size"] for one in self.trainings if one["arch"] == arch)


def duration(seconds: float) -> str:
    """Format a duration in a suitable unit.

    >>> duration(42), duration(600), duration(36_000), duration(864_000)
    ('42 s', '10 min', '10.0 h', '10.0 days')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"
