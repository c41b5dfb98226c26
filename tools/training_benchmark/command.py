"""The measurement that ``tools/benchmark_training.py`` asks for."""

from __future__ import annotations

import datetime
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence

import torch
from rich.console import Console

from sprout_fast.data import Loaders, build_loaders, default_loader
from sprout_fast.distributed import World, joined_world
from sprout_fast.errors import UserError
from sprout_fast.methods import METHODS, Method
from sprout_fast.models.mode import restored
from sprout_fast.registry import nearest
from training_benchmark.added import measure_added
from training_benchmark.baselines import BASELINES
from training_benchmark.contestants import Contestant, build_contestants, build_methods
from training_benchmark.machine import OthersUse, machine_info
from training_benchmark.options import Options
from training_benchmark.parts import measure_parts
from training_benchmark.rounds import Clock, Timings, measure
from training_benchmark.step_times import NATURAL, SPROUT, StepTimes
from training_benchmark.trainee import Batches, Trainee, build_trainee, synthetic_batches

_IMAGENET, _CIFAR = 1_281_167, 50_000  # training images
_SMALL = 64  # pixels up to which images count as small


def selected(option: str, value: str, choices: Sequence[str]) -> list[str]:
    """Return the names in ``"a,b"`` in the order of ``choices``; ``"all"`` and ``"none"`` work too.

    Raises:
        UserError: a name that is not one of ``choices``.

    >>> selected("methods", "trades,natural", ["natural", "ls", "trades"])
    ['natural', 'trades']
    """
    if value in ("all", "none"):
        return list(choices) if value == "all" else []
    names = {name.strip() for name in value.split(",") if name.strip()}
    for name in sorted(names - set(choices)):
        raise UserError(
            f"{name}: expected one of {', '.join(choices)}{nearest(name, choices)}", option=option
        )
    return [name for name in choices if name in names]


def benchmark(options: Options, argv: Sequence[str], start: float) -> int:
    """Measure and report; returns the exit status.

    Args:
        options: already checked.
        argv: arguments as typed, quoted in the report.
        start: ``time.perf_counter()`` when the program started, from which the budget counts.
    """
    cudnn = torch.backends.cudnn
    with joined_world(options.device) as world, restored([cudnn], "benchmark"):
        cudnn.benchmark = True  # as in training, for the baselines too
        return _benchmark(options, argv, start, world)


def _benchmark(options: Options, argv: Sequence[str], start: float, world: World) -> int:
    known = [NATURAL, *(name for name in METHODS if name != NATURAL)]
    method_names = selected("methods", options.methods, known)
    baselines = selected("baselines", options.baselines, list(BASELINES))
    names = [name for name in known if name == NATURAL or name in method_names]
    if options.parts is None:
        timed_by_part = [name for name in (NATURAL, SPROUT) if name in names]
    else:
        timed_by_part = selected("parts", options.parts, names)
    device = world.device
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

    loaders = _load(options, world, side, batch_size, is_small)
    classes = len(loaders.classes) if loaders else 10 if is_small else 1000
    trainee = build_trainee(
        options.arch,
        classes,
        image_size=side,
        amp=amp,
        channels_last=options.channels_last,
        world=world,
        first_row=world.rank * batch_size,
    )
    methods = build_methods(trainee, names)
    contestants, unavailable = build_contestants(trainee, methods, baselines)
    batches = _endless(loaders) if loaders else synthetic_batches(trainee, batch_size)

    others = OthersUse(world)
    spent = time.perf_counter() - start
    timings, parts, added = _measured(
        trainee, contestants, methods, batches, timed_by_part, options, spent
    )
    late = {name: f"about {s:.3g} s per step" for name, s in timings.left_out.items()}
    per_epoch = loaders.train.num_images if loaders else _CIFAR if is_small else _IMAGENET
    times = StepTimes(
        machine=machine_info(device) | {"others": others()},
        date=datetime.date.today().isoformat(),
        command=shlex.join(["python", "tools/benchmark_training.py", *argv]),
        arch=options.arch,
        image_size=side,
        batch_size=batch_size,
        processes=world.size,
        images_per_epoch=options.images_per_epoch or per_epoch,
        setting=_setting(options, amp, loaders),
        timings=timings,
        notes={contestant.name: contestant.note for contestant in contestants},
        unavailable=unavailable | {name: f"no time, {text}" for name, text in late.items()},
        parts=parts,
        added=added,
        seconds=time.perf_counter() - start,
    )
    if not world.is_main:
        return 0
    # Into a file or a pipe, rich would cut the table at 80 columns.
    times.print_to(Console(width=None if sys.stdout.isatty() else 180))
    if options.json is not None:
        options.json.write_text(json.dumps(times.as_json(), indent=1) + "\n")
    if options.markdown is not None:
        options.markdown.write_text(times.markdown(), encoding="utf-8")
    return 0


def _measured(
    trainee: Trainee,
    contestants: Sequence[Contestant],
    methods: dict[str, Method],
    batches: Batches,
    timed_by_part: Sequence[str],
    options: Options,
    spent: float,
) -> tuple[Timings, dict[str, list[dict[str, float]]], dict[str, list[float]]]:
    """Time whole steps, parts of steps and SPROUT's added work in what is left of ``budget``."""
    clock, messages = Clock(trainee.world), Console(stderr=True, quiet=not trainee.world.is_main)
    end = clock() + options.budget - spent
    with messages.status("") as status:

        def progress(text: str) -> None:
            # A status shows nothing unless stderr is a terminal; the estimate is to stay there.
            if messages.is_terminal and not text.startswith("estimate"):
                status.update(text)
            else:
                messages.print(text, soft_wrap=True, highlight=False)

        pair = [name for name in (NATURAL, SPROUT) if SPROUT in methods]
        further = bool(timed_by_part or pair)
        timings = measure(
            contestants,
            batches,
            clock,
            base=NATURAL,
            rounds=options.rounds,
            steps=options.steps,
            budget=(0.8 if further else 1.0) * (end - clock()),
            progress=progress,
        )
        by_part = {name: methods[name] for name in timed_by_part if name in timings.seconds}
        steps = _steps_within(0.6 * (end - clock()), [timings.of(name) for name in by_part])
        parts = {}
        if steps:
            progress("timing the parts of steps")
            parts = measure_parts(by_part, trainee.optimize, batches, trainee.device, steps)
        added = {}
        if pair and clock() < end:
            progress("timing what SPROUT adds")
            both = {name: methods[name] for name in pair}
            added = measure_added(trainee, both, *next(batches), min(5.0, end - clock()))
    return timings, parts, added


def _load(
    options: Options, world: World, side: int, batch_size: int, is_small: bool
) -> Loaders | None:
    if options.data is None:
        return None
    return build_loaders(
        options.data,
        loader=options.loader or ("memory" if is_small else default_loader()),
        batch_size=batch_size,
        image_size=side,
        device=world.device,
        workers=max(1, min(8, (os.cpu_count() or 1) // world.size)),
        shard_id=world.rank,
        num_shards=world.size,
    )


def _endless(loaders: Loaders) -> Batches:
    while True:
        yield from loaders.train


def _steps_within(budget: float, seconds: Sequence[Sequence[float]]) -> int:
    """Return how many steps of each fit into ``budget``, at most 20, judging by the fastest."""
    total = sum(min(found) for found in seconds)
    return max(0, min(20, int(budget / total))) if total else 0


def _setting(options: Options, amp: str, loaders: Loaders | None) -> str:
    layout = "channels-last" if options.channels_last else "contiguous"
    images = loaders.description if loaders else "random uint8 images on the device"
    return f"amp {amp}, {layout}, {images}"
