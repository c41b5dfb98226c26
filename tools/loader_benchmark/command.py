"""Turns of each contestant, one table and a verdict."""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Mapping

import torch
from rich.console import Console
from training_benchmark.machine import OthersUse, caption, machine_info
from training_benchmark.tables import console_table

from loader_benchmark.contestants import Batches, contestants, read_all
from loader_benchmark.options import Options
from sprout_fast.data import balanced_subset, scan
from sprout_fast.distributed import pick_device
from sprout_fast.errors import UserError

_WARM_UP = 5  # batches

Rates = Mapping[tuple[str, int], float]  # images per second of a row at a number of threads


def benchmark(options: Options) -> int:
    """Measure and print; return the exit status."""
    device, counts = pick_device(options.device), options.thread_counts()
    if options.decode == "gpu" and device.type == "cpu":
        raise UserError("gpu: there is none", option="decode")
    listing = scan(options.data)
    split = listing.train
    split = split.subset(balanced_subset(split.labels, options.images, seed=0))
    size, seconds = read_all(split, counts[-1])
    count = len(split)
    print(
        f"{listing.layout}: {count:,} of {len(listing.train):,} training images, "
        f"{size / count / 1e3:.0f} kB each\n"
        f"first read of the files, wherever they were: {count / seconds:,.0f} images/s, "
        f"{size / seconds / 1e6:,.0f} MB/s with {counts[-1]} threads"
    )
    others = OthersUse()
    rows = contestants(split, options, device)
    turns: dict[tuple[str, int], list[float]] = {}
    for _ in range(options.rounds):
        for (name, make), threads in itertools.product(rows.items(), counts):
            batches = make(threads)
            turns.setdefault((name, threads), []).append(rate(batches, options, device))
            del batches
            gc.collect()  # its threads and processes end before the next turn
    rates = {key: statistics.median(values) for key, values in turns.items()}
    table = console_table(
        ["images/s by threads", *map(str, counts)],
        [[name, *(f"{rates[name, count]:,.0f}" for count in counts)] for name in rows],
        left=1,
    )
    Console(width=120).print(table)
    machine = machine_info(device) | {"others": others()}
    print(
        f"training crops of {options.image_size} x {options.image_size} pixels in batches of "
        f"{options.batch_size} on {device}; median of {options.rounds} turns of "
        f"{options.seconds:g} s; page cache warm: every file had been read before\n"
        f"{caption(machine, time.strftime('%Y-%m-%d'))}\n{verdict(rates, options.needs)}"
    )
    return 0


def rate(batches: Batches, options: Options, device: torch.device) -> float:
    """Return images per second after a warm-up."""

    def wait() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    for _ in itertools.islice(batches, _WARM_UP):
        pass
    start, count = wait(), 0
    while time.perf_counter() - start < options.seconds or not count:
        next(batches)
        count += 1
    return count * options.batch_size / (wait() - start)


def verdict(rates: Rates, needs: float | None) -> str:
    """Return in one line what the best loader and number of threads are enough for.

    >>> verdict({("torch", 2): 600.0}, 500)
    'your GPUs need 500 images/s; this machine loads 600 (torch, 2 threads): enough'
    """
    loaders = {key: value for key, value in rates.items() if key[0] != "decoding alone"}
    name, threads = best = max(loaders, key=loaders.__getitem__)
    decodes = max((value for key, value in rates.items() if key not in loaders), default=None)
    loads = loaders[best]
    text = "" if decodes is None else f"decodes {decodes:,.0f} and "
    text = f"this machine {text}loads {loads:,.0f} ({name}, {threads} threads)"
    if needs is None:
        return f"{text}; --needs gives a verdict"
    text = f"your GPUs need {needs:,.0f} images/s; {text}"
    if loads >= needs:
        return f"{text}: enough"
    return f"{text}: the GPUs would wait {100 * (1 - loads / needs):.0f} % of the time"
