#!/usr/bin/env python
"""Kill and stop training runs at random moments, and compare what they end with.

python tests/benchmarks/soak.py --kills 200 --signals 50 --page docs/soak.md   # make soak

Each run trains a small network for a few epochs and is killed (SIGKILL) or told to stop (SIGINT,
SIGTERM, SIGUSR1) at random moments, in a random process, then started again by the same command
line, with ``--resume auto``, until it is complete. Its weights, averages, beta, momenta and random
states must then be those of an undisturbed run, bit for bit, and metrics.csv must have one row for
each epoch. This is done for each loader, with one process and with two. The processes are forked
from this one, after torch has been imported: most of a short run would be that.

Then ``--steps`` steps of each loader, during which memory, open files and shared memory must not
grow.

The state is kept in --state: run it again to continue after an interruption.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib
import json
import os
import platform
import random
import shutil
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from pages import replace_section
from PIL import Image

import sprout_fast
import sprout_fast.training.run  # noqa: F401  (imported once, before forking)
from sprout_fast.distributed import held_port
from sprout_fast.files import atomic_write
from sprout_fast.models import read_checkpoint
from sprout_fast.training.command import train_cifar

LOADERS = ("dali", "torch", "memory")
CLASSES, IMAGES, EPOCHS, BATCH = 4, 50, 3, 8  # images per class
STOPPED = {"SIGINT": 130, "SIGTERM": 75, "SIGUSR1": 75}  # exit statuses
TOO_LONG = 120.0  # seconds after which a job counts as stuck
# Columns of metrics.csv that do not depend on where an epoch was interrupted, nor on the time.
COMPARED = ("epoch", "step", "val_top1", "val_top5", "val_loss", "val_top1_raw", "lr", "beta_mean")


@dataclass
class Options:
    """Command-line options."""

    kills: int = 200
    """Processes to kill."""
    signals: int = 50
    """SIGINT, SIGTERM and SIGUSR1 to send."""
    steps: int = 5000
    """Steps of each loader in the test for leaks."""
    minutes: float = 600.0
    """Stop after this time; run again to continue."""
    seed: int = 0
    """Seed of the moments, processes and signals."""
    state: Path = Path("build/soak")
    """Folder for runs and results so far."""
    page: Path | None = None
    """Page whose table is replaced."""


def make_images(root: Path) -> Path:
    """Write JPEG files of 32 x 32 pixels, whose classes differ in color."""
    rng = np.random.default_rng(0)
    for split, count in (("train", IMAGES), ("test", 8)):
        for label in range(CLASSES):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8)
                pixels[8:24, 8:24, label % 3] += 100
                Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=95)
    return root


def start(log: Path, processes: int, *arguments: object) -> list[int]:
    """Fork the processes of a training run and return their pids."""
    pids = []
    # The processes keep the port until they end, since they inherit its socket.
    with held_port() as port:
        variables = {}
        if processes > 1:
            variables = {"WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for rank in range(processes):
            if pid := os.fork():
                pids.append(pid)
                continue
            status = 1
            try:
                output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                for descriptor in (1, 2):
                    os.dup2(output, descriptor)
                place = {"RANK": rank, "LOCAL_RANK": rank} | variables if variables else {}
                os.environ |= {name: str(value) for name, value in place.items()}
                sys.argv = ["train_cifar.py"]
                status = train_cifar([str(argument) for argument in arguments])
                log.with_suffix(".modules").write_text(" ".join(sorted(sys.modules)))
                sys.stdout.flush()
            except SystemExit as stop:
                status = int(stop.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
    return pids


def wait_for(pids: list[int], seconds: float) -> dict[int, int]:
    """Return the exit statuses of those processes that end within ``seconds``."""
    ended, until = {}, time.monotonic() + seconds
    while len(ended) < len(pids) and time.monotonic() < until:
        for pid in pids:
            if pid not in ended and (done := os.waitpid(pid, os.WNOHANG))[0]:
                ended[pid] = os.waitstatus_to_exitcode(done[1])
        time.sleep(0.02)
    return ended


def digest(folder: Path) -> str:
    """Return a hash of all that a run's last checkpoint holds, and of the rows of its epochs."""
    content = read_checkpoint(folder / "last.pt")
    names = ("model", "ema", "beta", "optimizer", "rng_state", "epoch", "step", "best_top1")
    seen = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            seen.update(value.contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                seen.update(str(key).encode())
                add(value[key])
        elif isinstance(value, (list, tuple)):
            for part in value:
                add(part)
        else:
            seen.update(repr(value).encode())

    for name in names:
        add(content[name])
    best = read_checkpoint(folder / "best.pt")
    add([best["epoch"], best["model"], best["ema"]])
    header, *rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    add([[row[header.index(name)] for name in COMPARED] for row in rows])
    return seen.hexdigest()


class Soak:
    """Runs of one configuration, disturbed until they are complete."""

    def __init__(self, folder: Path, data: Path, loader: str, processes: int) -> None:
        self.folder, self.processes = folder / f"{loader}-{processes}", processes
        self.arguments = ["--data", data, "--loader", loader, "--arch", "cifar_resnet8"]
        self.arguments += ["--epochs", EPOCHS, "--batch-size", BATCH, "--workers", 1, "--ema", 0.9]
        self.arguments += ["--device", "cpu", "--final-attack-images", 0, "--save-every", 4]
        # A process killed before the two have met is waited for that long.
        self.arguments += ["--timeout", 45]
        self.result: dict[str, Any] = {"loader": loader, "processes": processes, "runs": 0}
        self.result |= {"kills": 0, "signals": 0, "slowest": 0.0, "faults": []}

    def start(self, out: Path) -> list[int]:
        out.mkdir(parents=True, exist_ok=True)
        command = [*self.arguments, "--out", out, "--resume", "auto"]
        return start(out.with_suffix(".log"), self.processes, *command)

    def undisturbed(self) -> None:
        """Run without disturbance, for the bits and the time that it takes."""
        shutil.rmtree(self.folder, ignore_errors=True)
        began = time.monotonic()
        statuses = wait_for(self.start(self.folder / "reference"), 10 * TOO_LONG).values()
        if list(statuses) != [0] * self.processes:
            raise SystemExit((self.folder / "reference.log").read_text())
        self.result |= {"seconds": time.monotonic() - began}
        self.result |= {"digest": digest(self.folder / "reference")}

    def import_used(self) -> None:
        """Import here what the undisturbed run imported, which took most of its time."""
        for name in (self.folder / "reference.modules").read_text().split():
            with contextlib.suppress(Exception):
                importlib.import_module(name)

    def disturbed(self, rng: random.Random, kill_share: float) -> None:
        """Run once, disturbed at random moments, and count."""
        result, out = self.result, self.folder / "run"
        shutil.rmtree(out, ignore_errors=True)
        out.with_suffix(".log").unlink(missing_ok=True)
        while True:
            log, early = out.with_suffix(".log"), rng.random() < 0.1
            size = log.stat().st_size if log.exists() else 0
            pids, ended, began = self.start(out), {}, time.monotonic()
            # Most signals come after the first line of the run, some before it.
            while not early and len(ended) < len(pids) and time.monotonic() < began + TOO_LONG:
                ended |= wait_for([pid for pid in pids if pid not in ended], 0.1)
                early = log.exists() and log.stat().st_size > size
            left = [pid for pid in pids if pid not in ended]
            ended |= wait_for(left, rng.uniform(0, 1) * result["seconds"])
            name, sent = "", time.monotonic()
            if not ended:
                name = "SIGKILL" if rng.random() < kill_share else rng.choice(list(STOPPED))
                os.kill(rng.choice(pids), getattr(signal, name))
            left = [pid for pid in pids if pid not in ended]
            ended |= wait_for(left, TOO_LONG)
            if len(ended) < len(pids):
                self._fault("stuck", name)
                for pid in set(pids) - set(ended):
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                return
            statuses = set(ended.values())
            if name and statuses != {0}:
                result["kills" if name == "SIGKILL" else "signals"] += 1
                result["slowest"] = max(result["slowest"], time.monotonic() - sent)
            if name in STOPPED and not self._expected(name, statuses):
                self._fault(f"exit statuses {sorted(statuses)}", name)
            if not name and statuses != {0}:
                self._fault(f"exit statuses {sorted(statuses)} undisturbed", "")
                return
            if statuses == {0}:
                break
        result["runs"] += 1
        # Only of the run itself: helper threads of the loaders may lose their peers.
        if ", in run_tool" in out.with_suffix(".log").read_text():
            self._fault("a traceback", "")
        if digest(out) != result["digest"]:
            self._fault("other bits or rows", "")

    def _expected(self, name: str, statuses: set[int]) -> bool:
        # A signal that comes before the run has begun kills the process, or stops it alone, and
        # the other one has to follow.
        own = {STOPPED[name], -getattr(signal, name)} & statuses
        return statuses <= own | {0} or (self.processes > 1 and bool(own) and statuses <= own | {1})

    def _fault(self, what: str, name: str) -> None:
        text = self.folder / f"fault{len(self.result['faults']) + 1}.log"
        shutil.copyfile((self.folder / "run").with_suffix(".log"), text)
        self.result["faults"].append(f"{what} {name}".strip())
        print(f"FAULT {self.folder.name}: {what} {name}, see {text}", flush=True)


def usage(pid: int) -> dict[str, float]:
    """Return memory [MB], descriptors, shared memory [MB] and processes of ``pid`` and its own."""
    pids, names = [pid], ("memory", "descriptors", "shared", "processes")
    total: dict[str, float] = dict.fromkeys(names, 0.0)
    for one in pids:
        with contextlib.suppress(OSError):
            pids += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
            rollup = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()[1:]
            sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in rollup}
            total["memory"] += sizes["Pss"]
            total["shared"] += sizes.get("Pss_Shmem", 0.0)
            total["descriptors"] += len(os.listdir(f"/proc/{one}/fd"))
            total["processes"] += 1
    return total


def flat(folder: Path, data: Path, loader: str, steps: int) -> dict[str, Any]:
    """Train ``steps`` steps and return the use of memory after a fifth of them and at the end."""
    out = folder / f"flat-{loader}"
    shutil.rmtree(out, ignore_errors=True)
    out.with_suffix(".log").unlink(missing_ok=True)
    (pid,) = start(
        out.with_suffix(".log"),
        1,
        *("--data", data, "--loader", loader, "--arch", "cifar_resnet8", "--batch-size", 4),
        *("--epochs", 10_000, "--max-steps", steps, "--workers", 1, "--device", "cpu"),
        *("--final-attack-images", 0, "--out", out),
    )
    samples, began = [], time.monotonic()
    while not os.waitpid(pid, os.WNOHANG)[0]:
        samples.append((time.monotonic() - began, usage(pid)))
        time.sleep(1.0)
    if read_checkpoint(out / "last.pt")["step"] != steps:
        raise SystemExit(out.with_suffix(".log").read_text()[-2000:])
    parts = np.array_split(np.arange(len(samples)), 5)

    def median(part: np.ndarray, name: str) -> float:
        return float(np.median([samples[i][1][name] for i in part]))

    names = list(samples[0][1])
    early, late = ({name: median(part, name) for name in names} for part in (parts[1], parts[-1]))
    return {"loader": loader, "steps": steps, "early": early, "late": late}


def table(results: list[dict[str, Any]], leaks: list[dict[str, Any]]) -> str:
    """Return the content of the page."""
    today = datetime.date.today().isoformat()
    kills, signals = (sum(r[name] for r in results) for name in ("kills", "signals"))
    lines = [
        f"{today}: {kills} SIGKILL and {signals} SIGINT, SIGTERM or SIGUSR1 in"
        f" {sum(r['runs'] for r in results)} runs; sprout_fast {sprout_fast.__version__}, torch"
        f" {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} CPU cores.",
        "",
        "| loader | processes | runs | SIGKILL | INT, TERM, USR1 | same bits, one row per epoch |"
        " slowest end after a signal |",
        "|---|---:|---:|---:|---:|---|---:|",
    ]
    for r in results:
        verdict = "; ".join(r["faults"]) or ("all runs" if r["runs"] else "not run")
        slowest = f"{r['slowest']:.1f} s" if r["runs"] else ""
        lines.append(
            f"| {r['loader']} | {r['processes']} | {r['runs']} | {r['kills']} | {r['signals']} |"
            f" {verdict} | {slowest} |"
        )
    if leaks:
        lines += [
            "",
            "Medians over the second and the last fifth of a run, of the process and its workers:",
            "",
            "| loader | steps | memory | shared memory | descriptors | processes |",
            "|---|---:|---:|---:|---:|---:|",
        ]
    for leak in leaks:
        early, late = leak["early"], leak["late"]
        sizes = [f"{early[name]:.1f} → {late[name]:.1f} MB | " for name in ("memory", "shared")]
        counts = [f"{early[n]:.0f} → {late[n]:.0f}" for n in ("descriptors", "processes")]
        lines.append(
            f"| {leak['loader']} | {leak['steps']:,} | {''.join(sizes)}{' | '.join(counts)} |"
        )
    return "\n".join(lines)


def main(options: Options) -> int:
    torch.set_num_threads(1)
    folder = options.state
    folder.mkdir(parents=True, exist_ok=True)
    data, store = make_images(folder / "images"), folder / "results.json"
    known = json.loads(store.read_text()) if store.exists() else {"runs": [], "leaks": []}
    stored = {(r["loader"], r["processes"]): r for r in known["runs"]}
    soaks = [Soak(folder, data, loader, count) for loader in LOADERS for count in (1, 2)]
    leaks, until = known["leaks"], time.monotonic() + 60 * options.minutes

    def save() -> None:
        content = {"runs": [soak.result for soak in soaks if "digest" in soak.result]}
        with atomic_write(store) as temporary:
            temporary.write_text(json.dumps(content | {"leaks": leaks}, indent=1))
        if options.page is not None:
            replace_section(options.page, "soak", table(content["runs"], leaks) + "\n")

    for soak in soaks:
        key = soak.result["loader"], soak.result["processes"]
        if key in stored and stored[key].get("digest"):
            soak.result = stored[key]
            soak.import_used()
        else:
            soak.undisturbed()
            soak.import_used()
            soak.undisturbed()
            print(f"{soak.folder.name}: {soak.result['seconds']:.1f} s undisturbed", flush=True)
    rng = random.Random(f"{options.seed} {sum(soak.result['runs'] for soak in soaks)}")
    while time.monotonic() < until:
        kills = options.kills - sum(soak.result["kills"] for soak in soaks)
        signals = options.signals - sum(soak.result["signals"] for soak in soaks)
        if kills <= 0 and signals <= 0:
            break
        soak = min(soaks, key=lambda soak: soak.result["kills"] + soak.result["signals"])
        soak.disturbed(rng, max(kills, 0) / (max(kills, 0) + max(signals, 0)))
        save()
        print(f"{soak.folder.name}: {json.dumps(soak.result)}", flush=True)
    for loader in LOADERS:
        if time.monotonic() < until and loader not in [leak["loader"] for leak in leaks]:
            leaks.append(flat(folder, data, loader, options.steps))
            save()
            print(json.dumps(leaks[-1]), flush=True)
    return int(any(soak.result["faults"] for soak in soaks))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
