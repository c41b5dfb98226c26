"""The options that every training tool shares, and the few rules between them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from sprout_fast.errors import UserError

T = TypeVar("T")
# An option that may be left open: None is "choose for me", and its help says what is chosen.
Auto = Annotated[T | None, tyro.conf.arg(help_behavior_hint="")]

# Options of one invocation, not of a run: config.yaml and checkpoints leave them out.
INVOCATION_ONLY = ("config", "resume", "max_steps")

# Options that go to the method as they are; a method takes those that its __init__ names.
METHOD_OPTIONS = (
    "sigma",
    "a",
    "alpha",
    "scale",
    "labels_from",
    "beta_lr",
    "beta_grad",
    "mass_floor",
)


# tyro keeps the line breaks of these help texts, so each line is a sentence.
@dataclass
class TrainConfig:
    """One training run. ``None`` stands for "chosen by the tool".

    >>> TrainConfig(arch="resnet18", batch_size=32).stored()["batch_size"]
    32
    """

    arch: str = "resnet152"
    """Any torchvision classification model, as resnet152, resnet50, resnet18, vgg16_bn."""
    data: Auto[Path] = None
    """Folder with train/CLASS/*.JPEG and val/CLASS/*.JPEG. Default: a small sample set."""
    method: str = "sprout"
    """Training method: sprout or natural."""
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

    sigma: Auto[float] = None
    """sprout: standard deviation of the noise on images in [0,1]. Default: 0.1."""
    a: Auto[float] = None
    """sprout: Mixup's weight is drawn from Beta(a, a); 0 turns Mixup off. Default: 0.2."""
    alpha: Auto[float] = None
    """sprout: beta's share in the labels' concentration (1-alpha)y + alpha*beta. Default: 0.01."""
    scale: Auto[float] = None
    """sprout: factor on that concentration. Default: 1. (The authors' code: 11, alpha 1/11.)"""
    labels_from: Auto[Literal["dirichlet", "mean"]] = None
    """sprout: labels drawn from the Dirichlet, or its mean as a control. Default: dirichlet."""
    beta_lr: Auto[float] = None
    """sprout: step size of beta's ascent. Default: by the number of classes."""
    beta_grad: Auto[Literal["implicit", "expected", "none"]] = None
    """sprout: beta's gradient through the drawn label, in expectation, or none.
    Default: implicit under 100 classes, expected from there."""
    mass_floor: Auto[float] = None
    """sprout: rescale beta to keep this expected mass on the true class. Default: off."""

    optimizer: Literal["sgd", "apex-fused-sgd"] = "sgd"
    """torch's fused SGD, or that of NVIDIA's apex where it is installed."""
    momentum: float = 0.9
    """Momentum of SGD, not Nesterov's: the paper's code and torchvision's baselines use plain."""
    weight_decay: float = 1e-4
    """L2 weight decay; norms and biases are left out."""
    warmup_epochs: Auto[float] = None
    """Linear warm-up before the cosine. Default: a tenth of --epochs, at most 5."""
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
            "sigma": 0,
            "a": 0,
            "beta_lr": 0,
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
        for name in ("lr", "scale"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"{flag(name)} {value}: must be a positive number")
        if self.reset_head and self.weights is None:
            raise UserError("--reset-head: needs --weights FILE, whose last layer it leaves out")
        if self.resume is not None and self.weights is not None:
            raise UserError("--weights: not together with --resume, whose file has its own weights")

    def method_options(self) -> dict[str, Any]:
        """The method's options that were given, by name."""
        named = {name: getattr(self, name) for name in METHOD_OPTIONS}
        return {name: value for name, value in named.items() if value is not None}

    def stored(self) -> dict[str, Any]:
        """Plain values for config.yaml and for checkpoints."""
        values = {}
        for field in dataclasses.fields(self):
            if field.name not in INVOCATION_ONLY:
                value = getattr(self, field.name)
                values[field.name] = str(value) if isinstance(value, Path) else value
        return values


def flag(name: str) -> str:
    """``batch_size`` as the user types it: ``--batch-size``."""
    return "--" + name.replace("_", "-")
