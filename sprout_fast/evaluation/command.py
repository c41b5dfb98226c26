"""What tools/evaluate_robustness.py does."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from torch import nn

from sprout_fast.cli import Auto
from sprout_fast.data import default_loader
from sprout_fast.data.validation import Images, read_images
from sprout_fast.errors import UserError
from sprout_fast.evaluation.evaluate import evaluate
from sprout_fast.evaluation.protocols import PROTOCOLS, SMALL_IMAGE, protocol_of
from sprout_fast.evaluation.recorder import Record
from sprout_fast.evaluation.results import Results
from sprout_fast.evaluation.subject import Subject
from sprout_fast.models import (
    CHECKPOINT_FORMAT,
    Normalized,
    create_model,
    default_normalization,
    load_model,
)
from sprout_fast.models.torch_file import read_torch_file
from sprout_fast.models.weights import apply_state_dict, find_state_dict

# The eps that benchmarks take, by norm: of CIFAR's images, of ImageNet's.
DEFAULT_EPS = {"linf": (8 / 255, 4 / 255), "l2": (0.5, 3.0)}


@dataclass
class EvaluateConfig:
    """What is evaluated and how."""

    checkpoint: Path
    """last.pt or best.pt of a run, or a torchvision weights file (then with --arch)."""
    data: Auto[Path] = None
    """Image folder, tars or CIFAR, as for training. Default: what the checkpoint was trained on."""
    protocol: Annotated[str, tyro.conf.arg(help=f"One of {', '.join(PROTOCOLS)}.")] = "strong"
    limit: Auto[int] = None
    """Take this many of the validation images, spread evenly over the classes. Default: all."""
    out: Auto[Path] = None
    """Folder for results.json, report.html and figures. Default: evaluation, beside --checkpoint.
    Stopped, the same command goes on there where it was."""
    norm: Literal["linf", "l2"] = "linf"
    """Norm of the ball of the verdict."""
    eps: Auto[float] = None
    """Its radius, on images in [0,1]. Default: linf 8/255, l2 0.5; over 64 pixels 4/255 and 3."""
    transfer_from: Auto[Path] = None
    """Another checkpoint of ours, for transfer attacks: the paper's is a natural model."""
    scale: float = 1.0
    """In (0,1]: multiplies steps, restarts and queries of all attacks, for a trial."""
    arch: Auto[str] = None
    """Architecture of a weights file that is no checkpoint of ours."""
    image_size: Auto[int] = None
    """Side of the images in pixels. Default: the checkpoint's, or 224."""
    loader: Auto[Literal["memory", "dali", "torch"]] = None
    """Image loader. Default: memory for CIFAR's architectures, else dali where it is installed."""
    batch_size: int = 128
    """Images in a forward pass."""
    workers: int = 2
    """Threads or processes that decode images."""
    device: Auto[str] = None
    """As cuda, cuda:1 or cpu. Default: cuda where there is one, else cpu."""
    seed: int = 0
    """Seed of every random number."""

    def check(self) -> None:
        """Raise ``UserError`` for a number outside its range or an unknown protocol."""
        protocol_of(self.protocol)
        for name in ("limit", "image_size", "batch_size", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} {value}: must be a number from 1 up")
        if self.eps is not None and not 0 < self.eps < float("inf"):
            raise UserError(f"--eps {self.eps}: must be a positive number (images are in [0,1])")
        if self.norm == "linf" and self.eps is not None and self.eps > 1:
            raise UserError(f"--eps {self.eps}: images are in [0,1]; 8/255 is 0.0314")
        if not 0 < self.scale <= 1:
            raise UserError(f"--scale {self.scale}: must be above 0 and at most 1")


def run(config: EvaluateConfig) -> Results:
    """Load, measure, print and save."""
    from sprout_fast.distributed import pick_device

    config.check()
    device = pick_device(config.device)
    content = read_torch_file(config.checkpoint)
    ours = isinstance(content, Mapping) and content.get("format") == CHECKPOINT_FORMAT
    trained = dict(content["config"]) if ours else {}
    arch = trained.get("arch") or config.arch
    if arch is None:
        raise UserError(
            f"--checkpoint {config.checkpoint}: is no checkpoint of ours; say its --arch, as "
            "resnet50"
        )
    if ours and config.arch not in (None, arch):
        raise UserError(f"--arch {config.arch}: {config.checkpoint} holds a {arch}")
    data = config.data or (Path(trained["data"]) if trained.get("data") else None)
    if data is None:
        raise UserError("--data: needs a folder or tar of images")
    # Before the images: reading them can take minutes.
    surrogate = None if config.transfer_from is None else load_model(config.transfer_from, device)
    found = read_images(
        data,
        loader=config.loader or _loader(arch, trained),
        image_size=config.image_size or trained.get("image_size") or 224,
        limit=config.limit,
        workers=config.workers,
    )
    print(found.description)
    if ours:
        subject = _our_subject(config.checkpoint, content, found)
    else:
        subject = _foreign_subject(config.checkpoint, content, arch, found)
    subject.model.to(device).eval()
    subject.class_names = found.classes
    if config.transfer_from is not None:
        subject.surrogate = surrogate
        subject.surrogate_name = str(config.transfer_from)
    side = found.images.shape[-1]
    eps = config.eps or DEFAULT_EPS[config.norm][side > SMALL_IMAGE]
    out = config.out or config.checkpoint.parent / "evaluation"
    print(
        f"{subject.name} on {device}: protocol {config.protocol}, {config.norm} eps {eps:.4g}; "
        f"writing to {out}"
    )
    try:
        results = evaluate(
            subject,
            found.images,
            found.labels,
            protocol=config.protocol,
            eps=eps,
            norm=config.norm,
            batch_size=config.batch_size,
            seed=config.seed,
            scale=config.scale,
            cache_dir=out,
            progress=Lines(),
        )
        results.images_available = found.available
        report = results.save(out)
    except KeyboardInterrupt:
        print(f"\ninterrupted; what is measured is in {out}: the same command goes on from there")
        raise
    print(results)
    print(f"saved {out / 'results.json'}, {report}")
    return results


class Lines:
    """A line for each finished measurement; on a terminal also the batches of the one going on."""

    def __init__(self) -> None:
        self._shown = time.monotonic()

    def __call__(self, record: Record, done: int, total: int) -> None:
        terminal = sys.stdout.isatty()
        if done < total:
            if terminal and time.monotonic() - self._shown > 0.2:
                self._shown = time.monotonic()
                print(f"\r\x1b[K{record.name}: {done} of {total}", end="", flush=True)
            return
        if record.unavailable is not None:
            text = f"not measured: {record.unavailable}"
        else:
            accuracy = record.accuracy
            text = f"{accuracy.range}" if accuracy is not None else "done"
            text += f"  {record.seconds:.1f} s"
        start = "\r\x1b[K" if terminal else ""
        print(f"{start}{record.name:<28} {text}", flush=True)


def _loader(arch: str, trained: Mapping[str, Any]) -> str:
    small = trained.get("loader") == "memory" or arch.startswith("cifar_")
    return "memory" if small else default_loader()


def _our_subject(path: Path, content: Mapping[str, Any], found: Images) -> Subject:
    config = content["config"]
    classes = config.get("classes")
    if classes is not None and list(classes) != found.classes:
        raise UserError(
            f"--data: has {len(found.classes)} classes ({found.classes[0]}, ...), {path} was "
            f"trained on {len(classes)} ({classes[0]}, ...)"
        )
    return Subject(
        model=load_model(path),
        name=f"{config['arch']} by {config.get('method', 'an unknown method')} ({path})",
        num_classes=config["num_classes"],
        beta=content.get("beta"),
        alpha=config.get("alpha") or Subject.alpha,
        config=config,
    )


def _foreign_subject(path: Path, content: Any, arch: str, found: Images) -> Subject:
    state_dict, kind, _ = find_state_dict(path, content)
    model = create_model(arch, len(found.classes), image_size=found.images.shape[-1])
    print(apply_state_dict(model, state_dict, name=f"{path}{kind}"))
    return Subject(
        model=_wrapped(model, arch), name=f"{arch} ({path})", num_classes=len(found.classes)
    )


def _wrapped(model: nn.Module, arch: str) -> Normalized:
    mean, std = default_normalization(arch)
    return Normalized(model, mean, std)
