#!/usr/bin/env python
"""Reproduce every table and figure of the paper at a tiny scale on real images, end to end.

python tests/benchmarks/exhibits.py --data cifar10_images.tar --imagenet imagenet --out runs/all

It shows that each runs, and prints what each says. Finished work in --out is reused.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import _paths  # noqa: F401
from reproduce_paper import main as reproduce
from reproduction.exhibits.base import EXHIBITS


def main() -> int:
    """Run all exhibits; return 1 if one fails, 130 after Ctrl-C, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, help="CIFAR-10's images")
    parser.add_argument("--imagenet", required=True, help="ImageNet, or a sample of it")
    parser.add_argument("--out", type=Path, default=Path("runs/exhibits"), help="output folder")
    parser.add_argument("--scale", default="1e-6", help="scale in (0, 1]")
    given = parser.parse_args()
    failed = []
    for name in sorted(EXHIBITS, key=lambda name: (name.split()[0], int(name.split()[1]))):
        kind, number = name.split()
        argv = [f"--{kind}", number, "--data", given.data, "--imagenet", given.imagenet]
        print(f"\n=== {name}", flush=True)
        start = time.monotonic()
        status = reproduce([*argv, "--scale", given.scale, "--out", str(given.out)])
        print(f"=== {name}: status {status}, {time.monotonic() - start:.0f} s", flush=True)
        stem = f"{kind}_{number}"
        suffixes = ("md", "json", "png") if kind == "figure" else ("md", "json")
        if status == 130:
            return status
        if status or not all((given.out / f"{stem}.{suffix}").exists() for suffix in suffixes):
            failed.append(name)
    print(f"\n{len(EXHIBITS)} exhibits, failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
