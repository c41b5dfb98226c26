"""The options that every training tool shares, and the few rules between them."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import docstring_parser
import tyro

from sprout_fast.cli import Auto, flag
from sprout_fast.errors import UserError
from sprout_fast.methods import METHODS

# Options of one invocation, not of a run: config.yaml and checkpoints leave them out.
INVOCATION_ONLY = ("config", "resume", "max_steps")


# tyro keeps the line breaks of these help texts, so each line is a sentence.
@dataclass
class RunConfig:
    """The options of a run that are not a method's."""

    arch: str = "resnet152"
    """Any torchvision classification model, as resnet152, resnet50, resnet18, vgg16_bn."""
    data: Auto[Path] = None
    """Folder with train/CLASS/*.JPEG and val/CLASS/*.JPEG. Default: a small sample set."""
    method: Annotated[str, tyro.conf.arg(help=f"Training method: {', '.join(METHODS)}.")] = "sprout"
    recipe: Auto[Literal["paper", "reference-code", "expected"]] = None
    """Defaults for these options: SPROUT as its paper has it, as its authors' code has it, or as
    the paper with beta's exact gradient. The files in sprout_fast/training/recipes give sources."""
    epochs: Auto[int] = None
    """Passes over the training images. Default: 90; on the sample set, some minutes' worth."""
    batch_size: Auto[int] = None
    """Images a batch, for each process. Default: 64; on the sample set 16."""
    lr: Auto[float] = None
    """Peak learning rate. Default: 0.1 for 256 images a step, in proportion for others.
    After --weights a tenth of that."""
    image_size: Auto[int] = None
    """Side of the training and validation crops, in pixels. Default: 224; on the sample set 32."""
    loader: Auto[Literal["dali", "torch"]] = None
    """Image loader. Default: dali where it is installed, else torch."""
    workers: Auto[int] = None
    """Threads or processes that decode images, for each process. Default: CPU cores, at most 8."""
    weights: Auto[Path] = None
    """Start from this file: a torchvision state_dict or a checkpoint of ours.
    The paper starts SPROUT from a natural model."""
    reset_head: bool = False
    """With --weights: a fresh last layer in place of one for another number of classes."""
    optimizer: Literal["sgd", "apex-fused-sgd"] = "sgd"
    """torch's fused SGD, or that of NVIDIA's apex where it is installed."""
    momentum: float = 0.9
    """Momentum of SGD, not Nesterov's: the paper's code and torchvision's baselines use plain."""
    weight_decay: Auto[float] = None
    """L2 weight decay. Default: 1e-4."""
    norm_decay: bool = False
    """Weight decay on norms and biases too, which are left out otherwise."""
    schedule: Literal["cosine", "stages"] = "cosine"
    """Learning rate: half a cosine to 0, or a tenth after 40, 70 and 90 % of the epochs, as the
    authors' code has it (80, 60, 40 and 20 epochs)."""
    warmup_epochs: Auto[float] = None
    """Linear warm-up before the schedule. Default: a tenth of --epochs, at most 5."""
    ema: Auto[float] = None
    """Keep an exponential moving average of the weights with this decay, as 0.999, and evaluate
    and save it beside the weights. Default: off."""
    normalization: Literal["dataset", "none"] = "dataset"
    """Normalise images by their data set's mean and standard deviation, or leave them in [0,1]."""
    accumulation_steps: int = 1
    """Batches whose gradients are averaged for one optimizer step."""
    amp: Auto[Literal["none", "bf16", "fp16"]] = None
    """Mixed precision. Default: bf16 on CUDA, none on CPU."""
    channels_last: bool = True
    """Memory layout of the model and its activations."""
    compile: bool = False
    """Run the model through torch.compile."""
    device: Auto[str] = None
    """As cuda, cuda:1 or cpu. Default: cuda where there is one, else cpu."""
    seed: int = 0
    """Seed of the first weights, the data order and all the draws of the method."""
    out: Auto[Path] = None
    """Folder for last.pt, best.pt, config.yaml, metrics.csv and TensorBoard events.
    Default: runs/ARCH-METHOD, with a number behind it where that is taken."""
    final_attack_images: Auto[int] = None
    """Validation images for the clean and PGD-10 accuracy at the end; 0 leaves it out.
    Default: 200, or fewer where a CPU would take long."""
    max_steps: Auto[int] = None
    """Stop after this many optimizer steps of this invocation, save last.pt and report."""
    resume: Auto[Path] = None
    """Go on from this checkpoint of ours, with its options except those given here."""
    config: Auto[Path] = None
    """YAML file of defaults for these options; the command line has the last word."""

    def check(self) -> None:
        """Raise ``UserError`` for a number outside its range, naming the option."""
        at_least = {
            "epochs": 1,
            "batch_size": 2,  # Mixup needs a partner, batch norm a variance
            "image_size": 8,
            "workers": 1,
            "momentum": 0,
            "weight_decay": 0,
            "warmup_epochs": 0,
            "accumulation_steps": 1,
            "seed": 0,
            "final_attack_images": 0,
            "max_steps": 1,
        }
        for name, low in at_least.items():
            value = getattr(self, name)
            if value is not None and not low <= value < float("inf"):  # so written, NaN fails too
                raise UserError(f"{flag(name)} {value}: must be a number from {low} up")
        if self.seed >= 2**63:
            raise UserError(f"--seed {self.seed}: must be under 2**63")
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise UserError(f"--lr {self.lr}: must be a positive number")
        if self.ema is not None and not 0 < self.ema < 1:
            raise UserError(f"--ema {self.ema}: must be between 0 and 1")
        if self.reset_head and self.weights is None:
            raise UserError("--reset-head: needs --weights FILE, whose last layer it leaves out")
        if self.resume is not None and self.weights is not None:
            raise UserError("--weights: not together with --resume, whose file has its own weights")

    def chosen(self) -> Mapping[str, Any]:
        """What the tool takes for options that were left open, by name."""
        raise NotImplementedError

    def method_options(self) -> dict[str, Any]:
        """The method's options that were given, by name."""
        named = {field.name: getattr(self, field.name) for field in _METHOD_FIELDS}
        return {name: value for name, value in named.items() if value is not None}

    def stored(self) -> dict[str, Any]:
        """Plain values for config.yaml and for checkpoints."""
        values = {}
        for field in dataclasses.fields(self):
            if field.name not in INVOCATION_ONLY:
                value = getattr(self, field.name)
                values[field.name] = str(value) if isinstance(value, Path) else value
        return values


def _method_fields() -> list[tuple[str, Any, dataclasses.Field]]:
    """A field for each option of any method, its help put together from their docstrings."""
    types: dict[str, Any] = {}
    texts: dict[str, dict[str, list[str]]] = {}  # option -> text -> methods
    for name, method in METHODS.items():
        hints = typing.get_type_hints(method.__init__)
        documented = {
            p.arg_name: p.description for p in docstring_parser.parse(method.__doc__).params
        }
        for option, parameter in list(inspect.signature(method).parameters.items())[1:]:
            text = " ".join(documented[option].split()).rstrip(".")
            if parameter.default is not None:
                shown = parameter.default
                shown = f"{shown:.4g}" if isinstance(shown, float) else shown
                text += f". Default: {shown}"
            types.setdefault(option, hints[option])
            texts.setdefault(option, {}).setdefault(text, []).append(name)
    fields = []
    for option, by_text in texts.items():
        help_text = "\n".join(f"{', '.join(names)}: {text}." for text, names in by_text.items())
        hint = tyro.conf.arg(help=help_text, help_behavior_hint="")
        kind = Annotated[types[option] | None, hint]
        fields.append((option, kind, dataclasses.field(default=None)))
    return fields


_MethodOptions = dataclasses.make_dataclass("_MethodOptions", _method_fields())
_METHOD_FIELDS = dataclasses.fields(_MethodOptions)


@dataclass
class TrainConfig(_MethodOptions, RunConfig):
    """The options of a run on any image folder. ``None`` stands for "chosen by the tool".

    >>> TrainConfig(arch="resnet18", batch_size=32).stored()["batch_size"]
    32
    """

    lr_per_image = 0.1 / 256  # peak learning rate for each image of an optimizer step
    arch_prefix = ""  # of the architectures that --arch may shorten

    def chosen(self) -> Mapping[str, Any]:
        return SAMPLE_DEFAULTS if self.data is None else DEFAULTS


DEFAULTS = {"epochs": 90, "batch_size": 64, "image_size": 224, "weight_decay": 1e-4}
# For the sample set, whose schedule is to end within five minutes for ResNet-152 on two CPU cores.
SAMPLE_DEFAULTS = {
    "epochs": 3,
    "batch_size": 16,
    "image_size": 32,
    "warmup_epochs": 0.2,
    "lr": 0.01,
    "weight_decay": 1e-4,
}


@dataclass
class CifarConfig(TrainConfig):
    """The options of a run on CIFAR-10, CIFAR-100 or any set of small images.

    >>> CifarConfig(arch="resnet20").chosen()["batch_size"]
    128
    """

    arch: str = "resnet18"
    """vgg16, resnet18, resnet20, resnet50, wrn34_10 (any depth and width) for 32 pixels;
    or any torchvision classification model."""
    data: Auto[Path] = None
    """Folder or tar of CLASS folders in train/ and test/, or CIFAR as torchvision downloads it."""
    epochs: Auto[int] = None
    """Passes over the training images. Default: 200."""
    batch_size: Auto[int] = None
    """Images a batch, for each process. Default: 128."""
    lr: Auto[float] = None
    """Peak learning rate. Default: 0.1 for 128 images a step, in proportion for others.
    After --weights a tenth of that."""
    image_size: Auto[int] = None
    """Side of the images, in pixels. Default: 32."""
    loader: Auto[Literal["memory", "dali", "torch"]] = None
    """memory keeps the images on the device, crops (after a padding of 4) and flips in batch;
    the others read files and crop as for ImageNet. Default: memory."""
    weight_decay: Auto[float] = None
    """L2 weight decay. Default: 5e-4."""
    limit_train: Auto[int] = None
    """Train on this many images, drawn by --seed. Default: all."""

    lr_per_image = 0.1 / 128
    arch_prefix = "cifar_"

    def chosen(self) -> Mapping[str, Any]:
        return CIFAR_DEFAULTS

    def check(self) -> None:
        super().check()
        if self.data is None:
            raise UserError("--data: needs a folder or a tar of images, for example CIFAR-10's")
        if self.limit_train is not None:
            if self.limit_train < 2:
                raise UserError(f"--limit-train {self.limit_train}: must be a number from 2 up")
            if self.loader not in (None, "memory"):
                raise UserError(f"--limit-train: not with --loader {self.loader}, takes memory")


CIFAR_DEFAULTS = {
    "epochs": 200,
    "batch_size": 128,
    "image_size": 32,
    "loader": "memory",
    "weight_decay": 5e-4,
}
