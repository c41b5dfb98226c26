"""The options of the training tools, and the few rules between them. Imports no torch."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import tyro

from sprout_fast.cli import Auto, literal_choices
from sprout_fast.data.loaders.options import AugmentationOptions, LoadingOptions
from sprout_fast.errors import UserError
from sprout_fast.methods.options import MethodOption, method_options
from sprout_fast.registry import nearest

METHOD_NAMES = tuple(method_options())
if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Annotated[Literal[METHOD_NAMES], tyro.conf.arg(metavar="METHOD")]

# Options of one invocation, not of a run: config.yaml and checkpoints leave them out.
INVOCATION_ONLY = ("config", "resume", "max_steps", "detect_anomaly")

CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]

# ``resume`` with this value looks for a checkpoint in the folder ``out``.
AUTO_RESUME = Path("auto")


class Interval(NamedTuple):
    """A number of optimizer steps or of seconds; the other one is None."""

    steps: int | None = None
    seconds: int | None = None


def parse_interval(text: str) -> Interval:
    """Return the interval that ``text`` says: steps, or a time in s, m or h.

    Raises:
        UserError: it says something else.

    >>> parse_interval("500"), parse_interval("10m")
    (Interval(steps=500, seconds=None), Interval(steps=None, seconds=600))
    """
    match = re.fullmatch(r"(\d+)([smh]?)", text)
    if not match or not int(match[1]):
        raise UserError(f"{text}: expected steps or a time, e.g. 500, 90s, 10m or 2h")
    count, unit = int(match[1]), match[2]
    return Interval(seconds=count * {"s": 1, "m": 60, "h": 3600}[unit]) if unit else Interval(count)


# Each class below is a group of --help, and the docstrings are its help texts.


@dataclass
class RunOptions:
    """What to run."""

    method: MethodName = dataclasses.field(
        default="sprout", metadata={"help": f"Training method: {', '.join(METHOD_NAMES)}."}
    )
    recipe: Auto[
        Literal[
            "paper",
            "reference-code",
            "expected",
            "torchvision-v1",
            "torchvision-v2",
            "nvidia",
            "timm-a1",
            "timm-a2",
            "timm-a3",
        ]
    ] = None
    """Set of defaults for SPROUT: as in the paper, as in its authors' code, or the paper's with the
    exact expected gradient of beta; or for a natural network on ImageNet: torchvision's weights
    V1 (90 epochs) and V2 (600), NVIDIA's DeepLearningExamples (250), or timm's A1 to A3 (600, 300
    and 100)."""
    config: Auto[Path] = None
    """YAML file with defaults for all options; the command line overrides it."""
    resume: Auto[Path] = None
    """Resume from this checkpoint (last.pt of a run) with the options stored in it; options given
    here override them. auto: from the newest good checkpoint in --out, or start anew if it has
    none."""


@dataclass
class ModelOptions:
    """The network and its initial weights."""

    group = "model"

    arch: str = "resnet152"
    """Architecture: any torchvision classification model, e.g. resnet152, resnet50, vgg16_bn;
    timm:NAME, any classifier of timm, e.g. timm:convnext_tiny; or package.module:function, which is
    called with num_classes and returns a network."""
    weights: Auto[Path] = None
    """Initial weights: a file with a state_dict (torchvision's, timm's, Lightning's, safetensors),
    a sprout_fast checkpoint, or "timm" for those that timm loads. The paper starts SPROUT from a
    naturally trained model. Default: random."""
    reset_head: bool = False
    """Replace the last layer of --weights by a new one, for another number of classes."""


@dataclass
class DataOptions:
    """The images and how they are loaded."""

    group = "data"

    data: Auto[Path] = None
    """Folder with train/CLASS/*.JPEG and val/CLASS/*.JPEG, or with WebDataset tars. Default: a
    small generated sample set."""
    batch_size: Auto[int] = None
    """Images per batch and process. Default: 64; 16 on the sample set."""
    image_size: Auto[int] = None
    """Side of the training and validation crops in pixels. Default: 224; 32 on the sample set."""
    val_image_size: Auto[int] = None
    """Side of the validation crops in pixels, if it differs."""
    val_resize: Auto[int] = None
    """Short side in pixels of validation images before the crop. Default: 256/224 of its side."""
    normalization: Literal["dataset", "none"] = "dataset"
    """Normalize images by the mean and standard deviation of the data set, or leave them in
    [0,1]."""
    loader: Auto[Literal["dali", "torch"]] = None
    """Image loader. Default: dali if installed, else torch."""
    limit_train: Auto[int] = None
    """Train on this many images, drawn evenly from all classes. Default: all."""
    workers: Auto[int] = None
    """Threads (dali) or processes (torch) that decode images, per process. Default: an equal share
    of the CPU cores, at most 16."""


@dataclass
class OptimizationOptions:
    """The optimizer and its schedule."""

    group = "optimization"

    epochs: Auto[int] = None
    """Passes over the training images. Default: 90; 3 on the sample set."""
    lr: Auto[float] = None
    """Peak learning rate. Default: 0.1 at 256 images per step, scaled linearly with batch size
    (adamw: 0.001 at 1024, timm-lamb: 0.005 at 2048); a tenth of that with --weights; 0.01 on the
    sample set."""
    lr_batch_size: Auto[int] = None
    """Images per step that --lr is for; it is scaled linearly to those of the run. Default: --lr
    is used as it is."""
    min_lr: float = 0.0
    """Learning rate at the end of the cosine."""
    schedule: Literal["cosine", "stages", "step"] = "cosine"
    """Learning rate schedule: half a cosine down to --min-lr; divided by 10 after 40, 70 and 90 %
    of the epochs, as in the authors' code (stages); or every --step-epochs (step)."""
    step_epochs: int = 30
    """Epochs between two divisions by 10 of schedule step."""
    warmup_epochs: Auto[float] = None
    """Epochs of linear warm-up at the start. Default: a tenth of --epochs, at most 5; 0.2 on the
    sample set."""
    optimizer: Literal["sgd", "apex-fused-sgd", "adamw", "timm-lamb"] = "sgd"
    """torch's fused SGD or AdamW, the SGD of NVIDIA apex or the LAMB of timm if installed."""
    momentum: float = 0.9
    """Momentum of SGD; first beta of AdamW and LAMB, whose second is 0.999."""
    nesterov: bool = False
    """Use Nesterov's momentum in SGD."""
    weight_decay: Auto[float] = None
    """Weight decay: L2 for SGD, decoupled for AdamW. Default: 1e-4 (adamw: 0.05, timm-lamb:
    0.02)."""
    norm_decay: bool = False
    """Apply weight decay to normalization layers and biases too."""
    layer_decay: Auto[float] = None
    """Factor of the learning rate from each block of the network to the one before it, e.g. 0.75
    to fine-tune a transformer. Default: one rate for all."""
    clip_grad: Auto[float] = None
    """Scale gradients down to this norm, over all parameters. Default: never."""
    accumulation_steps: int = 1
    """Batches whose gradients are averaged for one optimizer step."""
    ema: Auto[float] = None
    """Decay of an exponential moving average of the weights, e.g. 0.999, which is then evaluated
    and saved along with the weights. Default: off."""
    ema_steps: int = 1
    """Optimizer steps between two updates of the average."""
    ema_adjust: bool = False
    """Multiply 1 - --ema by the images between two updates over the epochs, as torchvision does, so
    that one value serves runs of all lengths and batch sizes."""
    seed: int = 0
    """Seed of the initial weights, the order of the images and all random numbers of the method."""


@dataclass
class DeviceOptions:
    """Device and precision."""

    group = "device"

    device: Auto[str] = None
    """Device, e.g. cuda, cuda:1, cpu. Default: cuda if available, else cpu."""
    amp: Auto[Literal["none", "bf16", "fp16"]] = None
    """Mixed precision. Default: bf16 on CUDA, none on CPU."""
    channels_last: bool = True
    """Use the channels-last memory format."""
    compile: Auto[CompileMode] = None
    """Compile the model with torch.compile in this mode. Default: not compiled."""
    cuda_graph: bool = False
    """Capture the training step into a CUDA graph after some steps, and replay it for each batch,
    so that small networks do not wait for the host."""
    sync_bn: bool = False
    """Compute batch norm's statistics over the batches of all processes, not of each one alone; on
    GPUs."""
    fsdp: bool = False
    """Shard weights, gradients and momenta over the processes (torch's FSDP2), for networks that do
    not fit into one GPU's memory; not with --compile."""
    activation_checkpointing: bool = False
    """Compute the activations within the network's blocks again in the backward pass, which needs
    less memory and more time; not with --compile."""
    dist_bn: Literal["none", "reduce", "broadcast"] = "broadcast"
    """Batch norm's running statistics in validation and checkpoints, which differ from process to
    process: average them, copy the first process's to all, or leave each its own."""
    timeout: float = 600.0
    """Seconds that one process may keep the others waiting before all end."""
    detect_anomaly: bool = False
    """Check the loss, gradients, weights and beta of every step and name the first that is not
    finite, with PyTorch's traceback of its forward pass. Slow."""


@dataclass
class OutputOptions:
    """What to write, and when to stop early."""

    group = "output"

    out: Auto[Path] = None
    """Folder for last.pt, best.pt, config.yaml, environment.json, metrics.csv and TensorBoard
    events. Default: runs/ARCH-METHOD, followed by a number if that exists."""
    tracker: Auto[Literal["wandb"]] = None
    """Also send the metrics to Weights & Biases, which needs the package wandb. Default: off."""
    save_every: Auto[str] = None
    """Also write last.pt within an epoch, after this many steps (500) or this time (90s, 10m, 2h),
    while training continues. Default: never."""
    keep_every: Auto[int] = None
    """Also keep a copy of last.pt as epoch-NNN.pt every this many epochs. Default: never."""
    max_steps: Auto[int] = None
    """Stop after this many optimizer steps, save last.pt and report."""
    final_attack_images: Auto[int] = None
    """Validation images for the clean and PGD-10 accuracy at the end; 0 to skip it. Default: 200,
    or fewer for a large model on a CPU."""


def _method_groups() -> tuple[type, ...]:
    """Return dataclasses with a field for each option of any method.

    Options that several methods share form the first group, those of one method a group each.
    """
    uses: dict[str, dict[str, MethodOption]] = {}  # by option, then by method
    for method, options in method_options().items():
        for option in options:
            uses.setdefault(option.name, {})[method] = option
    members: dict[str, list] = {"shared method": []}
    for name, by_method in uses.items():
        first = next(iter(by_method.values()))
        group = "shared method" if len(by_method) > 1 else next(iter(by_method))
        field = dataclasses.field(default=None, metadata={"help": _method_help(by_method)})
        members.setdefault(group, []).append((name, first.type | None, field))
    return tuple(
        dataclasses.make_dataclass(f"_{group}", fields, namespace={"group": group})
        for group, fields in members.items()
    )


def _method_help(options: Mapping[str, MethodOption]) -> str:
    """Return the help of an option from the docstrings of its methods, a line for each wording."""
    lines = []
    for text in dict.fromkeys(option.help for option in options.values()):
        methods = [method for method, option in options.items() if option.help == text]
        shown: dict[str, list[str]] = {}
        for method in methods:
            default = options[method].default
            if default is not None:
                value = f"{default:.4g}" if isinstance(default, float) else str(default)
                shown.setdefault(value, []).append(method)
        if len(shown) == 1:
            text += f". Default: {next(iter(shown))}"
        elif shown:
            listed = (f"{value} ({', '.join(users)})" for value, users in shown.items())
            text += f". Default: {', '.join(listed)}"
        alone = len(options) == 1
        who = "" if alone else f"{', '.join(methods)}: "
        lines.append(f"{who}{text[0].upper() + text[1:] if alone else text}.")
    return "\n".join(lines)


# Any, since type checkers cannot know the fields. Base classes are in reverse order of --help.
_MethodOptions: Any = dataclasses.make_dataclass("_MethodOptions", [], bases=_method_groups()[::-1])


@dataclass
class TrainConfig(
    _MethodOptions,
    OutputOptions,
    DeviceOptions,
    OptimizationOptions,
    AugmentationOptions,
    LoadingOptions,
    DataOptions,
    ModelOptions,
    RunOptions,
):
    """The options of a run on an image folder. None means that the tool chooses.

    >>> TrainConfig(arch="resnet18", batch_size=32).stored()["batch_size"]
    32
    """

    lr_per_image = 0.1 / 256  # peak learning rate per image of an optimizer step

    def defaults(self) -> Mapping[str, Any]:
        """Return the values of options that were left open, by name."""
        return SAMPLE_DEFAULTS if self.data is None else DEFAULTS

    def method_options(self) -> dict[str, Any]:
        """Return the options of methods that were given, by name."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(_MethodOptions)}
        return {name: value for name, value in values.items() if value is not None}

    def stored(self) -> dict[str, Any]:
        """Return plain values for config.yaml and for checkpoints."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in values.items()
            if name not in INVOCATION_ONLY
        }

    def check(self) -> None:
        """Check each option by itself and the few that exclude each other.

        Raises:
            UserError: a number outside its range, an unknown name, an option that the method does
                not have, or two options that exclude each other.
        """
        for name, hint in typing.get_type_hints(type(self)).items():
            value, choices = getattr(self, name), literal_choices(hint)
            if value is not None and choices and value not in choices:
                names = ", ".join(map(str, choices))
                hint = nearest(str(value), map(str, choices))
                raise UserError(f"{value}: expected one of {names}{hint}", option=name)
        at_least = {
            "epochs": 1,
            "batch_size": 2,  # Mixup needs a partner, batch norm a variance
            "image_size": 8,
            "val_image_size": 8,
            "val_resize": 8,
            "lr_batch_size": 1,
            "min_lr": 0,
            "step_epochs": 1,
            "ema_steps": 1,
            "limit_train": 2,
            "workers": 1,
            "momentum": 0,
            "weight_decay": 0,
            "warmup_epochs": 0,
            "accumulation_steps": 1,
            "seed": 0,
            "final_attack_images": 0,
            "keep_every": 1,
            "max_steps": 1,
            "timeout": 1,
        }
        for name, low in at_least.items():
            value = getattr(self, name)
            if value is not None and not low <= value < math.inf:  # written so that NaN fails too
                raise UserError(f"{value}: expected a number of at least {low}", option=name)
        self.check_loading()
        self.check_augmentation()
        if self.seed >= 2**63:
            raise UserError(f"{self.seed}: expected a number below 2**63", option="seed")
        for name in ("lr", "clip_grad"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"{value}: expected a positive number", option=name)
        if self.lr_batch_size is not None and self.lr is None:
            raise UserError(f"{self.lr_batch_size}: needs lr", option="lr_batch_size")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise UserError(f"{self.ema}: expected a number from 0 to below 1", option="ema")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            message = f"{self.layer_decay}: expected a number above 0, at most 1"
            raise UserError(message, option="layer_decay")
        if self.nesterov and (self.optimizer not in ("sgd", "apex-fused-sgd") or not self.momentum):
            raise UserError("needs optimizer sgd with a momentum", option="nesterov")
        if self.save_every is not None:
            try:
                parse_interval(self.save_every)
            except UserError as error:
                raise UserError(error.message, option="save_every") from None
        for name in ("fsdp", "activation_checkpointing"):
            if getattr(self, name) and self.compile:
                raise UserError("excluded by compile", option=name)
        if self.fsdp and self.optimizer not in ("sgd", "adamw"):
            reason = f"needs optimizer sgd or adamw, got {self.optimizer}"
            raise UserError(reason, option="fsdp")
        if self.reset_head and self.weights is None:
            raise UserError("needs weights, whose last layer it replaces", option="reset_head")
        if self.weights not in (None, Path("timm")) and not self.weights.exists():
            raise UserError(f"{self.weights}: no such file", option="weights")
        if self.resume is not None and self.weights is not None:
            reason = "excluded by resume, since the checkpoint has its own weights"
            raise UserError(f"{self.weights}: {reason}", option="weights")
        own = sorted(option.name for option in method_options()[self.method])
        for name, value in self.method_options().items():
            if name not in own:
                options = f"its options are {', '.join(own)}" if own else "it has none"
                raise UserError(
                    f"{value}: method {self.method} has no such option; {options}", option=name
                )


# Learning rate per image of a step and weight decay of optimizers that need others than SGD's:
# torchvision's for Swin (1e-3 at 1024 images, 0.05) and those of "ResNet strikes back", A2.
OPTIMIZER_DEFAULTS = {"adamw": (1e-3 / 1024, 0.05), "timm-lamb": (5e-3 / 2048, 0.02)}
CIFAR_DEFAULTS = {"epochs": 200, "batch_size": 128, "image_size": 32, "weight_decay": 5e-4}
DEFAULTS = {"epochs": 90, "batch_size": 64, "image_size": 224, "weight_decay": 1e-4}
# For the sample set: a schedule that ends within five minutes with ResNet-152 on two CPU cores.
SAMPLE_DEFAULTS = DEFAULTS | {"epochs": 3, "batch_size": 16, "image_size": 32}
SAMPLE_DEFAULTS |= {"warmup_epochs": 0.2, "lr": 0.01}


@dataclass
class CifarConfig(TrainConfig):
    """The options of a run on CIFAR-10, CIFAR-100 or another set of small images.

    >>> CifarConfig(arch="cifar_resnet20").defaults()["batch_size"]
    128
    """

    arch: str = "cifar_resnet18"
    """Architecture: cifar_vgg16, cifar_resnet18, cifar_resnet20, cifar_resnet50, cifar_wrn34_10
    (any depth and width), any torchvision classification model, timm:NAME, or
    package.module:function, which is called with num_classes and returns a network."""
    data: Auto[Path] = None
    """Folder or tar with train/CLASS/* and test/CLASS/*, or CIFAR as torchvision downloads it.
    Required."""
    batch_size: Auto[int] = None
    """Images per batch and process. Default: 128."""
    image_size: Auto[int] = None
    """Side of the images in pixels. Default: 32."""
    loader: Auto[Literal["memory", "dali", "torch"]] = None
    """Image loader: memory keeps all images on the device, and pads by 4, crops and flips in
    batches; dali and torch read files and crop as for ImageNet. Default: memory."""
    epochs: Auto[int] = None
    """Passes over the training images. Default: 200."""
    lr: Auto[float] = None
    """Peak learning rate. Default: 0.1 at 128 images per step, scaled linearly with batch size; a
    tenth of that with --weights."""
    warmup_epochs: Auto[float] = None
    """Epochs of linear warm-up at the start. Default: a tenth of --epochs, at most 5."""
    weight_decay: Auto[float] = None
    """Weight decay: L2 for SGD, decoupled for AdamW. Default: 5e-4 (adamw: 0.05, timm-lamb:
    0.02)."""

    lr_per_image = 0.1 / 128

    def defaults(self) -> Mapping[str, Any]:
        """Return the values of options that were left open, by name."""
        return CIFAR_DEFAULTS | {"loader": "memory"}

    def check(self) -> None:
        """Check the options as ``TrainConfig`` does, and those of small images."""
        super().check()
        if self.data is None:
            raise UserError("needs a folder or tar of images, e.g. CIFAR-10", option="data")
