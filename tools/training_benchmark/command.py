"""The tool's options, and the measurement that they ask for."""

from __future__ import annotations

import datetime
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from sprout_fast.cli import Auto, flag
from sprout_fast.data import Loaders, build_loaders, build_memory_loaders, default_loader
from sprout_fast.distributed import pick_device
from sprout_fast.errors import UserError
from sprout_fast.methods import METHODS, Method
from sprout_fast.registry import nearest
from training_benchmark.added import measure_added
from training_benchmark.baselines import BASELINES
from training_benchmark.contestants import Contestant, build_contestants, build_methods
from training_benchmark.machine import OthersUse, machine_info
from training_benchmark.parts import measure_parts
from training_benchmark.step_times import NATURAL, SPROUT, Report
from training_benchmark.rounds import Timings, measure
from training_benchmark.trainee import Batches, Trainee, build_trainee, synthetic_batches

_IMAGENET, _CIFAR = 1_281_167, 50_000  # training images
_SMALL = 64  # pixels up to which a data set is one of small images


# tyro keeps the line breaks of these help texts, so each line is a sentence.
@dataclass
class Options:
    """What the command line takes. None stands for "chosen by the tool"."""

    arch: str = "cifar_vgg16"
    """As cifar_vgg16, cifar_resnet18, cifar_resnet20, cifar_wrn34_10 for 32 pixels;
    or any torchvision classification model, as resnet152."""
    image_size: Auto[int] = None
    """Side of the images, in pixels. Default: 32 for cifar_*, else 224."""
    batch_size: Auto[int] = None
    """Images a batch. Default: 128 up to 64 pixels, else 64, and 4 on a CPU."""
    methods: str = "all"
    """Methods with commas between, or all. natural is always among them."""
    baselines: str = "all"
    """Others' code: any of torchvision, timm, two-passes, authors with commas between, all or
    none."""
    parts: Auto[str] = None
    """Of these methods a step is also taken apart; or none. Default: natural, and sprout where it
    is measured."""
    rounds: int = 20
    """Turns of each row, at most; slow rows get fewer, as --budget allows."""
    steps: Auto[int] = None
    """Steps of a turn. Default: as many as natural training makes in a quarter of a second."""
    budget: float = 600.0
    """Seconds for the whole measurement; each row gets its first turn even so."""
    amp: Auto[Literal["none", "bf16", "fp16"]] = None
    """Mixed precision. Default: bf16 on CUDA, none on CPU."""
    channels_last: bool = True
    """Memory layout of the network and its activations, for all rows."""
    device: Auto[str] = None
    """As cuda, cuda:1 or cpu. Default: cuda where there is one, else cpu."""
    threads: Auto[int] = None
    """Threads of torch on the CPU. Default: torch's."""
    data: Auto[Path] = None
    """Take batches from this data set, whose loading is then part of a step.
    Default: random images that are on the device."""
    loader: Auto[Literal["memory", "dali", "torch"]] = None
    """Loader of --data. Default: memory up to 64 pixels, else dali where it is installed."""
    images_per_epoch: Auto[int] = None
    """For the seconds an epoch. Default: those of --data; CIFAR's 50,000 up to 64 pixels;
    ImageNet's 1,281,167."""
    json: Path | None = None
    """Write every raw time there."""
    markdown: Path | None = None
    """Write the tables there, for a README."""

    def check(self) -> None:
        """Raise ``UserError`` for a value outside its range, naming the option."""
        at_least = {
            "image_size": 8,
            "batch_size": 2,  # Mixup needs a partner, batch norm a variance
            "rounds": 1,
            "steps": 1,
            "budget": 0,
            "threads": 1,
            "images_per_epoch": 1,
        }
        for name, low in at_least.items():
            value = getattr(self, name)
            if value is not None and not low <= value < float("inf"):  # so written, NaN fails too
                raise UserError(f"{flag(name)} {value}: must be a number from {low} up")
        if self.loader is not None and self.data is None:
            raise UserError(f"--loader {self.loader}: needs --data, the images that it loads")
        for name in ("json", "markdown"):  # told before, not after the minutes of measuring
            path = getattr(self, name)
            if path is not None and not path.parent.is_dir():
                raise UserError(f"{flag(name)} {path}: no such folder {path.parent}")


def listed(option: str, value: str, taken: Sequence[str]) -> list[str]:
    """The names in ``"a,b"``, in the order of ``taken``; all of them for all, and for none none.

    >>> listed("--methods", "trades,natural", ["natural", "ls", "trades"])
    ['natural', 'trades']
    """
    if value in ("all", "none"):
        return list(taken) if value == "all" else []
    names = {name.strip() for name in value.split(",") if name.strip()}
    for name in sorted(names - set(taken)):
        raise UserError(f"{option} {name}: takes {', '.join(taken)}{nearest(name, taken)}")
    return [name for name in taken if name in names]


def benchmark(options: Options, argv: Sequence[str]) -> int:
    """Measure and report; ``argv`` is what was typed, for the report. Returns the exit status."""
    options.check()
    known = [NATURAL, *(name for name in METHODS if name != NATURAL)]
    method_names = listed("--methods", options.methods, known)
    baselines = listed("--baselines", options.baselines, list(BASELINES))
    names = [name for name in known if name == NATURAL or name in method_names]
    if options.parts is None:
        taken_apart = [name for name in (NATURAL, SPROUT) if name in names]
    else:
        taken_apart = listed("--parts", options.parts, names)
    device = pick_device(options.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    is_cifar = options.arch.startswith("cifar_")
    side = options.image_size or (32 if is_cifar else 224)
    is_small = side <= _SMALL
    batch_size = options.batch_size or (128 if is_small else 4 if device.type == "cpu" else 64)
    amp = options.amp or ("bf16" if device.type == "cuda" else "none")

    loaders = _load(options, device, side, batch_size, is_small) if options.data else None
    classes = len(loaders.classes) if loaders else 10 if is_small else 1000
    trainee = build_trainee(
        options.arch,
        classes,
        image_size=side,
        amp=amp,
        channels_last=options.channels_last,
        device=device,
    )
    methods = build_methods(trainee, names)
    contestants, unavailable = build_contestants(trainee, methods, baselines)
    batches = _endless(loaders) if loaders else synthetic_batches(trainee, batch_size)

    others = OthersUse()
    timings, parts, added = _measured(trainee, contestants, methods, batches, taken_apart, options)
    per_epoch = loaders.train.num_images if loaders else _CIFAR if is_small else _IMAGENET
    report = Report(
        machine=machine_info(device) | {"others": others()},
        date=datetime.date.today().isoformat(),
        command=shlex.join(["python", "tools/benchmark_training.py", *argv]),
        arch=options.arch,
        image_size=side,
        batch_size=batch_size,
        images_per_epoch=options.images_per_epoch or per_epoch,
        setting=_setting(options, amp, loaders),
        timings=timings,
        notes={contestant.name: contestant.note for contestant in contestants},
        unavailable=unavailable,
        parts=parts,
        added=added,
    )
    # Wide enough for the table wherever it goes.
    report.print_to(Console(width=None if sys.stdout.isatty() else 180))
    if options.json is not None:
        options.json.write_text(json.dumps(report.as_json(), indent=1) + "\n")
    if options.markdown is not None:
        options.markdown.write_text(report.markdown())
    return 0


def _measured(
    trainee: Trainee,
    contestants: Sequence[Contestant],
    methods: dict[str, Method],
    batches: Batches,
    taken_apart: Sequence[str],
    options: Options,
) -> tuple[Timings, dict[str, list[dict[str, float]]], dict[str, list[float]]]:
    """Whole steps, some taken apart, and what SPROUT adds: together about ``--budget`` seconds."""
    device, budget, messages = trainee.device, options.budget, Console(stderr=True)
    with messages.status("") as status:
        # Where stderr is no terminal, the status shows nothing, and lines say how far it is.
        say = status.update if messages.is_terminal else messages.print
        timings = measure(
            contestants,
            batches,
            device,
            base=NATURAL,
            rounds=options.rounds,
            steps=options.steps,
            budget=0.8 * budget,
            say=say,
        )
        if taken_apart:
            say("taking steps apart")
        apart = {name: methods[name] for name in taken_apart}
        steps = _steps_within(0.12 * budget, [timings.of(name) for name in apart])
        parts = measure_parts(apart, trainee.optimize, batches, device, steps)
        added = {}
        if SPROUT in methods:
            say("timing what SPROUT adds")
            pair = {name: methods[name] for name in (NATURAL, SPROUT)}
            added = measure_added(trainee, pair, *next(batches), min(5.0, 0.08 * budget))
    return timings, parts, added


def _load(
    options: Options, device: torch.device, side: int, batch_size: int, is_small: bool
) -> Loaders:
    share = {"batch_size": batch_size, "device": device, "seed": 0}
    loader = options.loader or ("memory" if is_small else default_loader())
    if loader != "memory":
        workers = min(8, os.cpu_count() or 1)
        return build_loaders(options.data, loader=loader, image_size=side, workers=workers, **share)
    loaders = build_memory_loaders(options.data, **share)
    if loaders.train.image_size != (side, side):
        raise UserError(
            f"--image-size {side}: --loader memory takes the images as they are, and"
            f" {options.data} has {' x '.join(map(str, loaders.train.image_size))} pixels"
        )
    return loaders


def _endless(loaders: Loaders) -> Batches:
    while True:
        yield from loaders.train


def _steps_within(budget: float, seconds: Sequence[Sequence[float]]) -> int:
    """How many steps of each fit, from 1 to 20, at their quickest."""
    total = sum(min(found) for found in seconds)
    return max(1, min(20, int(budget / total))) if total else 0


def _setting(options: Options, amp: str, loaders: Loaders | None) -> str:
    layout = "channels-last" if options.channels_last else "contiguous"
    images = loaders.description if loaders else "random uint8 images on the device"
    return f"amp {amp}, {layout}, {images}"
