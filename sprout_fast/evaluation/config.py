"""The options of the evaluation's command line. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sprout_fast.cli import Auto
from sprout_fast.errors import UserError
from sprout_fast.evaluation.names import AutoAttackVersion, NormName, ProtocolName

# Each class below with a group is a group of --help, and the docstrings are its help texts.


@dataclass
class ModelOptions:
    """The model, and another one to attack it from."""

    group = "model"

    checkpoint: Auto[Path] = None
    """Required: sprout_fast checkpoint (best.pt or last.pt of a run), or, together with --arch, a
    file with weights (torchvision's, timm's, Lightning's, safetensors), or "timm" for those that
    timm loads."""
    arch: Auto[str] = None
    """Architecture, if --checkpoint is not a sprout_fast checkpoint, e.g. resnet50, cifar_resnet18,
    timm:convnext_tiny; or package.module:function, any function that is called with num_classes and
    returns a network."""
    ema: bool = False
    """Evaluate the averaged weights of another project's checkpoint (state_dict_ema, model_ema).
    Those of a sprout_fast checkpoint are evaluated without being asked for."""
    normalization: Literal["dataset", "none"] = "dataset"
    """Normalize images by the mean and standard deviation of the architecture, or leave them in
    [0,1] for a network that normalizes them itself. A sprout_fast checkpoint has its own."""
    classes: Auto[Path] = None
    """File with the name of each of the network's outputs on a line, as the folders of --data are
    called. Default: those of the checkpoint; of a network with 1000 outputs, ImageNet's WordNet ids
    and English names; else the folders in their order, if there are as many."""
    name: Auto[str] = None
    """Name of the model in the report. Default: its architecture and file."""
    surrogate: Auto[Path] = None
    """sprout_fast checkpoint on which transfer attacks are made; the paper uses a naturally
    trained model. Default: no transfer attacks."""


@dataclass
class DataOptions:
    """The images, and how they are loaded."""

    group = "data"

    data: Auto[Path] = None
    """Image folder, tar files or CIFAR, as for training. Default: the data set that the checkpoint
    was trained on."""
    limit: Auto[int] = None
    """Number of validation images, spread evenly over the classes. Default: all."""
    image_size: Auto[int] = None
    """Side of the images in pixels. Default: the checkpoint's, else 224."""
    loader: Auto[Literal["memory", "dali", "torch"]] = None
    """Image loader. Default: memory if the checkpoint was trained with it, or for cifar_* networks
    without a checkpoint; else dali if installed, else torch."""
    workers: int = 2
    """Threads (dali) or processes (torch) that decode images."""
    resize: Auto[int] = None
    """Length of the short side of an image before its center of --image-size pixels is cropped.
    Default: 256/224 of --image-size. Weights say which they were measured with, e.g. 232."""
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    """Interpolation of the resize."""
    antialias: bool = True
    """Filter before shrinking, as Pillow does."""
    corruptions: Auto[Path] = None
    """Data set of corrupted images for --protocol corruptions, such as CIFAR-10-C or ImageNet-C.
    Default: made from the images by the package imagecorruptions."""


@dataclass
class EvaluationOptions:
    """What to measure."""

    group = "evaluation"

    protocol: ProtocolName = "strong"
    """strong: AutoAttack's four attacks; plus: its six, with more starts; paper: the measurements
    of the SPROUT paper; audit: checks for gradient masking; all: strong, paper and audit;
    rand: AutoAttack's two attacks on models that draw random numbers;
    corruptions: noise, blur, weather and the like; autoattack: the official package, if
    installed."""
    autoattack_version: AutoAttackVersion = "standard"
    """The official package's set of attacks, for --protocol autoattack."""
    norm: NormName = "linf"
    """Norm of the ball in which robust accuracy is measured."""
    eps: Auto[float] = None
    """Radius of that ball, for images in [0,1]. Default: linf 8/255, l2 0.5, l1 12; for images
    larger than 64 pixels linf 4/255, l2 3, l1 60."""
    scale: float = 1.0
    """Factor in (0,1] on the steps, restarts and queries of all attacks, for trial runs."""
    batch_size: int = 128
    """Images per batch."""
    device: Auto[str] = None
    """Device, e.g. cuda, cuda:1, cpu. Default: cuda if available, else cpu."""
    seed: int = 0
    """Seed of all random numbers."""


@dataclass
class OutputOptions:
    """What to write."""

    group = "output"

    out: Auto[Path] = None
    """Folder for results.json, report.html, figures and the results so far; after Ctrl-C, rerun the
    command to resume. Default: a folder "evaluation" next to the checkpoint."""
    compare: tuple[Path, ...] = ()
    """Write comparison.html, tables and curves of these folders side by side, and measure nothing:
    output folders of evaluations or of training runs, at least two. Default: none."""
    robustbench: Auto[Path] = None
    """Write robustbench.json, an entry of that leaderboard, from the results in this folder, and
    measure nothing."""


# Base classes are in reverse order of --help.
@dataclass
class EvaluateConfig(OutputOptions, EvaluationOptions, DataOptions, ModelOptions):
    """The options of an evaluation. None means that the tool chooses.

    >>> EvaluateConfig(Path("best.pt"), eps=8).check()
    Traceback (most recent call last):
    sprout_fast.errors.UserError: eps 8: images are in [0,1], e.g. 8/255 is 0.0314
    """

    def check(self) -> None:
        """Raise a UserError if there is no checkpoint or a number is out of range."""
        if self.compare or self.robustbench is not None:
            return
        if self.checkpoint is None:
            raise UserError("required: a checkpoint, or a file with weights", option="checkpoint")
        if self.corruptions is not None and self.protocol != "corruptions":
            raise UserError(
                f"{self.corruptions}: needs the protocol corruptions", option="corruptions"
            )
        for name in ("limit", "image_size", "resize", "batch_size", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{value}: expected an integer of at least 1", option=name)
        if self.eps is not None and not 0 < self.eps < float("inf"):
            raise UserError(f"{self.eps}: expected a positive number", option="eps")
        if self.norm == "linf" and self.eps is not None and self.eps > 1:
            raise UserError(f"{self.eps}: images are in [0,1], e.g. 8/255 is 0.0314", option="eps")
        if not 0 < self.scale <= 1:
            raise UserError(f"{self.scale}: expected a number in (0,1]", option="scale")
