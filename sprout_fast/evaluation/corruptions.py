"""Common corruptions (Hendrycks & Dietterich 2019), read from disk or made from clean images."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sprout_fast.data.names import is_hidden, is_image, printable
from sprout_fast.data.preprocessing import Preprocessing, preprocessed
from sprout_fast.data.subsets import spaced_subset
from sprout_fast.errors import UserError
from sprout_fast.evaluation.recorder import AccuracyRecord, Record

SEVERITIES = (1, 2, 3, 4, 5)

#: The corruptions of the benchmarks, in the order of their tables, and AlexNet's top-1 error on
#: each, the mean over the severities of ImageNet-C, which normalizes a corruption's error
#: (Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
#: Perturbations", ICLR 2019).
ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}

# Those of the data sets' "extra" folder, which belong to no mean.
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")


class CorruptedImages(Protocol):
    """Images of several corruptions."""

    source: str  #: What they are, for the report.
    corruptions: tuple[str, ...]  #: Names of the corruptions that there are.

    def read(self, corruption: str, severity: int) -> tuple[Tensor, Tensor]:
        """Return images, uint8 [N, 3, H, W], and labels, int64 [N]."""
        ...


class MadeCorruptions:
    """Corruptions of given images, made by the package imagecorruptions.

    The amounts are those of ImageNet-C. For images of 32 pixels they are more severe than those of
    CIFAR-10-C, whose code chose others, so the numbers do not compare with that data set's.

    Args:
        images: [N, 3, H, W], uint8 or floating point in [0, 1], of at least 32 x 32 pixels.
        labels: int64 [N].
        seed: seed of all random numbers.

    Raises:
        UserError: the package is not installed, or the images are too small.
    """

    corruptions = tuple(ALEXNET_ERRORS)

    def __init__(self, images: Tensor, labels: Tensor, *, seed: int = 0) -> None:
        try:
            imagecorruptions = importlib.import_module("imagecorruptions")
        except ImportError as error:
            raise UserError(
                "corruptions: making them needs imagecorruptions: pip install "
                f"imagecorruptions-imaug ({error}). CIFAR-10-C and ImageNet-C are read without it",
                option="protocol",
            ) from error
        if not hasattr(imagecorruptions.corruptions, "njit"):
            raise UserError(
                "corruptions: imagecorruptions is the version of 2020, which fails with current "
                "NumPy and scikit-image: pip install imagecorruptions-imaug",
                option="protocol",
            )
        if images.shape[1] != 3 or min(images.shape[2:]) < 32:
            raise UserError(
                f"images: got {list(images.shape[1:])}, expected [3,H,W] of at least 32 x 32 pixels"
            )
        whole = images if images.dtype == torch.uint8 else (255 * images).round().to(torch.uint8)
        self._pixels = whole.permute(0, 2, 3, 1).contiguous().numpy()
        self._labels, self._seed = labels, seed
        self._corrupt: Callable[..., np.ndarray] = imagecorruptions.corrupt
        self.source = "made by imagecorruptions"

    def read(self, corruption: str, severity: int) -> tuple[Tensor, Tensor]:
        state = np.random.get_state()
        try:
            made = [self._one(corruption, severity, index) for index in range(len(self._pixels))]
        finally:
            np.random.set_state(state)
        return torch.tensor(np.stack(made)).permute(0, 3, 1, 2).contiguous(), self._labels

    def _one(self, corruption: str, severity: int, index: int) -> np.ndarray:
        seed = zlib.crc32(f"{self._seed}/{corruption}/{severity}/{index}".encode())
        np.random.seed(seed)
        own = {"seed": seed} if corruption in ("impulse_noise", "glass_blur") else {}
        return self._corrupt(self._pixels[index], severity, corruption, **own)


class ArrayCorruptions:
    """CIFAR-10-C, CIFAR-100-C and the like: ``CORRUPTION.npy`` and ``labels.npy`` in one folder.

    Each file holds uint8 [5 N, H, W, 3], N images of each severity, from 1 on.

    Args:
        folder: the folder.
        limit: images to read of each corruption and severity, evenly spaced. Default: all N.

    Raises:
        UserError: a file is missing, or does not hold what is expected.
    """

    def __init__(self, folder: Path, *, limit: int | None = None) -> None:
        self._folder = folder
        self.source = printable(folder)
        self.corruptions = _known(path.stem for path in folder.glob("*.npy"))
        labels = self._load("labels")
        if not self.corruptions or labels.ndim != 1 or len(labels) % len(SEVERITIES):
            raise UserError(
                f"{self.source}: expected labels.npy with 5 N labels and files such as fog.npy",
                option="corruptions",
            )
        self._count = len(labels) // len(SEVERITIES)
        self._rows = spaced_subset(self._count, limit or self._count)
        self._labels = torch.from_numpy(np.array(labels).astype(np.int64))

    def read(self, corruption: str, severity: int) -> tuple[Tensor, Tensor]:
        images = self._load(corruption)
        expected = len(self._labels)
        if images.ndim != 4 or images.shape[3] != 3 or len(images) != expected:
            raise UserError(
                f"{self.source}/{corruption}.npy: got {list(images.shape)}, "
                f"expected [{expected},H,W,3]",
                option="corruptions",
            )
        rows = (severity - 1) * self._count + self._rows
        return torch.tensor(images[rows]).permute(0, 3, 1, 2), self._labels[torch.from_numpy(rows)]

    def _load(self, name: str) -> np.ndarray:
        path = self._folder / f"{name}.npy"
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{printable(path)}: cannot be read ({error})", option="corruptions"
            ) from error


class FolderCorruptions:
    """ImageNet-C and the like: folders ``CORRUPTION/SEVERITY/CLASS`` of images.

    The corruptions may be in folders of their own kind (``blur``, ``noise``, ...), as unpacked from
    the archives.

    Args:
        folder: the folder.
        labels: label by the name of a class folder, e.g. a WordNet id.
        preprocessing: applied to images that are not squares of its crop. ImageNet-C's are squares
            of 224 pixels already.
        limit: images to read of each corruption and severity, evenly spaced over the classes.
            Default: all.
        workers: threads.

    Raises:
        UserError: there are no such folders, or a class folder is unknown.
    """

    def __init__(
        self,
        folder: Path,
        labels: Mapping[str, int],
        *,
        preprocessing: Preprocessing,
        limit: int | None = None,
        workers: int = 2,
    ) -> None:
        self.source = printable(folder)
        candidates = (path for pattern in ("*", "*/*") for path in sorted(folder.glob(pattern)))
        self._folders = {path.name: path for path in candidates if (path / "1").is_dir()}
        self.corruptions = _known(self._folders)
        if not self.corruptions:
            raise UserError(
                f"{self.source}: expected folders such as fog/1/n01440764, or files such as "
                "fog.npy and labels.npy",
                option="corruptions",
            )
        self._label_of, self._preprocessing = labels, preprocessing
        self._limit, self._workers = limit, workers

    def read(self, corruption: str, severity: int) -> tuple[Tensor, Tensor]:
        root = self._folders[corruption] / str(severity)
        classes = sorted(p for p in root.glob("*") if p.is_dir() and not is_hidden(p.name))
        unknown = next((path for path in classes if path.name not in self._label_of), None)
        if unknown is not None or not classes:
            raise UserError(
                f"{printable(unknown or root)}: expected folders named after the "
                f"{len(self._label_of)} classes of the clean images, such as "
                f"{next(iter(self._label_of))}",
                option="corruptions",
            )
        paths = [p for folder in classes for p in sorted(folder.iterdir()) if is_image(p.name)]
        paths = [paths[row] for row in spaced_subset(len(paths), self._limit or len(paths))]
        images = preprocessed(
            len(paths),
            lambda index: paths[index].read_bytes(),
            lambda index: printable(paths[index]),
            self._square,
            self._workers,
        )
        return images, torch.tensor([self._label_of[path.parent.name] for path in paths])

    def _square(self, image: Tensor) -> Tensor:
        side = self._preprocessing.crop
        return image if image.shape[1:] == (side, side) else self._preprocessing(image)


def open_corruptions(
    folder: str | Path,
    labels: Mapping[str, int],
    *,
    preprocessing: Preprocessing,
    limit: int | None = None,
    workers: int = 2,
) -> CorruptedImages:
    """Open a data set of corrupted images: files such as ``fog.npy``, or folders such as ``fog/1``.

    Arguments and errors are those of :class:`ArrayCorruptions` and :class:`FolderCorruptions`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{printable(folder)}: is not a folder", option="corruptions")
    if (folder / "labels.npy").exists():
        return ArrayCorruptions(folder, limit=limit)
    return FolderCorruptions(
        folder, labels, preprocessing=preprocessing, limit=limit, workers=workers
    )


def _known(names: Any) -> tuple[str, ...]:
    """Return the names of corruptions among ``names``, in the order of the benchmarks' tables."""
    found = set(names)
    return tuple(name for name in (*ALEXNET_ERRORS, *EXTRA) if name in found)


@dataclass(frozen=True)
class CorruptionSummary:
    """Accuracy under corruptions.

    Attributes:
        source: where the images are from.
        accuracies: accuracy in [0, 1] by corruption and severity.
        is_imagenet: whether the classes are ImageNet's 1,000.
    """

    source: str
    accuracies: dict[str, dict[int, float]]
    is_imagenet: bool

    def mean(self, corruption: str) -> float:
        """Return the mean accuracy over the severities of a corruption."""
        values = self.accuracies[corruption].values()
        return sum(values) / len(values)

    @property
    def missing(self) -> list[str]:
        """The benchmark's corruptions that were not measured; no mean is comparable without."""
        return [name for name in ALEXNET_ERRORS if name not in self.accuracies]

    @property
    def mean_accuracy(self) -> float:
        """Mean accuracy over the benchmark's corruptions and severities, in [0, 1]."""
        counted = [name for name in ALEXNET_ERRORS if name in self.accuracies]
        means = [self.mean(name) for name in counted or self.accuracies]
        return sum(means) / len(means)

    @property
    def mce(self) -> float | None:
        """The mean of the corruptions' errors, each divided by AlexNet's on ImageNet-C.

        None if the classes are not ImageNet's, or a corruption is missing.
        """
        if not self.is_imagenet or self.missing:
            return None
        errors = [(1 - self.mean(name)) / alexnet for name, alexnet in ALEXNET_ERRORS.items()]
        return sum(errors) / len(errors)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain values."""
        return {
            "source": self.source,
            "mean_accuracy": self.mean_accuracy,
            "mean_error": 1 - self.mean_accuracy,
            "mce": self.mce,
            "missing": self.missing,
            "accuracy": {
                name: {str(severity): value for severity, value in by_severity.items()}
                for name, by_severity in self.accuracies.items()
            },
        }

    def __str__(self) -> str:
        text = f"mean accuracy {100 * self.mean_accuracy:.1f} %, "
        if self.mce is not None:
            text += f"mCE {100 * self.mce:.1f} (errors divided by AlexNet's)"
        else:
            text += f"mean error {100 * (1 - self.mean_accuracy):.1f} % (not divided by AlexNet's)"
        if self.missing:
            text += f", without {', '.join(self.missing)}"
        return text

    def table(self) -> str:
        """Return a table of percentages, one line per corruption."""
        head = "".join(f"{severity:>8}" for severity in SEVERITIES)
        lines = [f"{'corruption, accuracy in %':<26}{head}{'mean':>8}"]
        for name, by_severity in self.accuracies.items():
            values = [by_severity.get(severity) for severity in SEVERITIES] + [self.mean(name)]
            cells = (" " * 8 if value is None else f"{100 * value:8.1f}" for value in values)
            lines.append(f"{name:<26}{''.join(cells)}")
        return "\n".join(lines)


def summarize_corruptions(
    records: Mapping[str, Record], num_classes: int
) -> CorruptionSummary | None:
    """Return the accuracies of the records of ``Corrupted`` measurements, None without any."""
    found: dict[str, dict[int, float]] = {}
    source = ""
    for record in records.values():
        if isinstance(record, AccuracyRecord) and record.parameters["kind"] == "Corrupted":
            by_severity = found.setdefault(record.parameters["corruption"], {})
            by_severity[record.parameters["severity"]] = record.accuracy.top1
            source = record.parameters["source"]
    return CorruptionSummary(source, found, num_classes == 1000) if found else None
