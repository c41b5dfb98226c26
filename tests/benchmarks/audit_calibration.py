#!/usr/bin/env python
"""Measure which masked models the audit detects, and how often it suspects honest ones.

python tests/benchmarks/audit_calibration.py --data cifar10_images.tar --page docs/audit.md

Honest networks are trained briefly on CIFAR-10 by every family of methods, and are of three sizes;
the smallest is that of tests/helpers on made-up images. The masked models are made from that one,
which the table calls "small, pgd_at". Rerun the command to resume.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import _paths  # noqa: F401
import torch
import tyro
from helpers.masked_models import MASKED
from helpers.networks import EPS, made_images, trained
from torch import Tensor, nn

from sprout_fast import evaluate, load_model
from sprout_fast.data import SpacedBatches, build_loaders
from sprout_fast.evaluation.audit import CHECKS
from sprout_fast.evaluation.names import ProtocolName
from sprout_fast.evaluation.results import Results
from sprout_fast.training.command import read_recipe
from sprout_fast.training.config import CifarConfig
from sprout_fast.training.run import train

PROTOCOLS: tuple[ProtocolName, ...] = ("strong", "audit")
# Epochs, training images, and the radius: one at which the network is partly robust.
HONEST = {
    "resnet8-natural": (8, 10_000, 1 / 255),
    "resnet8-pgd_at": (4, 10_000, 8 / 255),
    "resnet8-trades": (4, 10_000, 8 / 255),
    "resnet8-fast_at": (8, 10_000, 8 / 255),
    "resnet8-free_at": (2, 10_000, 8 / 255),
    "resnet8-sprout": (8, 10_000, 1 / 255),
    "resnet20-natural": (4, 50_000, 1 / 255),
}
BEGIN, END = "<!-- make audit-calibration -->\n", "<!-- end of make audit-calibration -->"


@dataclass
class Options:
    """Command-line options."""

    data: Path
    images: int = 100
    honest_scale: float = 0.1
    """Factor on the attacks' budgets for honest networks, larger than the small ones."""
    masked_scale: float = 0.2
    """The same for the small networks and the masked models."""
    out: Path = Path("runs/audit")
    honest: bool = True
    masked: bool = True
    page: Path | None = None
    """Page whose tables to replace."""


@dataclass
class Case:
    """A model to evaluate."""

    name: str
    model: nn.Module
    images: Tensor
    labels: Tensor
    eps: float
    honest: bool
    scale: float


def honest_cases(options: Options) -> Iterator[Case]:
    """Yield networks without gradient masking, trained first where that was not done yet."""
    test = build_loaders(options.data, loader="memory", batch_size=250, limit_train=250).val
    batches = list(SpacedBatches(test, test.num_images, options.images))
    images = torch.cat([batch[0] for batch in batches])
    labels = torch.cat([batch[1] for batch in batches])
    for name, (epochs, train_images, eps) in HONEST.items():
        arch, method = name.split("-")
        folder = options.out / name
        if not (folder / "last.pt").exists():
            recipe = read_recipe("expected") if method == "sprout" else {"method": method}
            shared = {"epochs", "lr", "schedule", "batch_size", "warmup_epochs", "weight_decay"}
            config = CifarConfig(
                arch=f"cifar_{arch}",
                data=options.data,
                epochs=epochs,
                lr=0.1,
                warmup_epochs=0.5,
                limit_train=train_images,
                amp="bf16",
                final_attack_images=0,
                out=folder,
                **{key: value for key, value in recipe.items() if key not in shared},
                **({"attack_steps": 5} if method in ("pgd_at", "trades") else {}),
            )
            if status := train(config):
                sys.exit(status)
        model = load_model(folder / "last.pt", device="cpu")
        yield Case(name, model, images, labels, eps, True, options.honest_scale)


def masked_cases(options: Options) -> Iterator[Case]:
    """Yield the small networks, and the masked models that are made from the robust one."""
    images, labels = made_images(options.images, seed=5)
    network, scale = trained(adversarially=True), options.masked_scale
    yield Case("small, natural", trained(adversarially=False), images, labels, EPS / 2, True, scale)
    yield Case("small, pgd_at", network, images, labels, EPS, True, scale)
    for name, mask in MASKED.items():
        yield Case(name, mask(network).eval(), images, labels, EPS, False, scale)


def row(case: Case, results: Results) -> dict:
    """Return what the tables need to know of an evaluation."""
    return {
        "name": case.name,
        "honest": case.honest,
        "protocol": results.protocol,
        "eps": case.eps,
        "clean": results.clean_accuracy,
        "robust": results.robust_accuracy,
        "excess": results.excess,
        "checks": {check.name: [check.status, check.numbers] for check in results.audit.checks},
    }


def failed(one: dict) -> list[str]:
    return [name for name, (status, _) in one["checks"].items() if status == "fail"]


def tables(rows: list[dict]) -> str:
    """Return the tables of the documentation."""
    lines = ["| model | eps | clean | `strong` | and says | `audit` | and says |"]
    lines.append("| --- | ---: | ---: | ---: | --- | ---: | --- |")
    by_name = {}
    for one in rows:
        by_name.setdefault(one["name"], {})[one["protocol"]] = one
    for name, of in by_name.items():
        cells = [
            name,
            f"{255 * of['strong']['eps']:.3g}/255",
            f"{100 * of['strong']['clean']:.0f} %",
        ]
        for protocol in PROTOCOLS:
            if one := of.get(protocol):
                says = ", ".join(failed(one)) or "no sign"
                doubt = f"doubtful by {100 * one['excess']:.0f} points: " if one["excess"] else ""
                cells += [f"{100 * one['robust']:.0f} %", doubt + says]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| check | detected, `strong` | detected, `audit` | false alarms |"]
    lines.append("| --- | ---: | ---: | ---: |")
    for check in CHECKS:

        def counts(protocol: str, honest: bool, check: str = check) -> tuple[int, int]:
            ran = [
                one["checks"][check][0]
                for one in rows
                if one["honest"] == honest and one["protocol"] == protocol
            ]
            return ran.count("fail"), len(ran) - ran.count("not run")

        detected = ["{} of {}".format(*counts(protocol, False)) for protocol in PROTOCOLS]
        alarms = [counts(protocol, True) for protocol in PROTOCOLS]
        lines.append(
            f"| {check} | {' | '.join(detected)} "
            f"| {sum(one[0] for one in alarms)} of {sum(one[1] for one in alarms)} |"
        )
    return "\n".join(lines)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    cases: list[Iterator[Case]] = []
    if options.masked:
        cases.append(masked_cases(options))
    if options.honest:
        cases.append(honest_cases(options))
    rows = []
    options.out.mkdir(parents=True, exist_ok=True)
    for case in (case for some in cases for case in some):
        for protocol in PROTOCOLS:
            results = evaluate(
                case.model,
                case.images,
                case.labels,
                protocol=protocol,
                eps=case.eps,
                scale=case.scale,
                cache_dir=options.out / "cache" / case.name.replace(" ", "-"),
            )
            rows.append(row(case, results))
            print(
                case.name, protocol, f"{results.robust_accuracy:.2f}", failed(rows[-1]), flush=True
            )
            (options.out / "audit.json").write_text(json.dumps(rows, indent=1))
            (options.out / "audit.md").write_text(tables(rows) + "\n")
    print(tables(rows))
    if options.page is not None:
        before, rest = options.page.read_text().split(BEGIN)
        options.page.write_text(before + BEGIN + tables(rows) + "\n" + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
