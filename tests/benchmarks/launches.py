#!/usr/bin/env python
"""Count the CUDA launches of a training step outside network and optimizer, without a GPU.

python tests/benchmarks/launches.py [--page docs/benchmarks.md]

The step of the trainer runs on meta tensors, which compute nothing and otherwise follow the code of
CUDA's, with logits that are a parameter in place of a network. PyTorch's operations count as one
launch each, views as none, and sprout_fast's as many as their .cu files make for these sizes
(tests/benchmarks/test_launches.py compares that with the kernels' own plans).
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import _paths  # noqa: F401
import torch
from pages import replace_section
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.utils._python_dispatch import TorchDispatchMode
from training_benchmark.tables import markdown_table

from sprout_fast.methods import MethodSetting, build_method
from sprout_fast.training.meter import Meter
from sprout_fast.training.optim import build_scheduler
from sprout_fast.training.step import OptimizeStep

#: Operations that launch more than one kernel: this one fills its result with zeros first.
SEVERAL = {"aten::nll_loss_backward": 2}
#: Operations that launch nothing: allocations, and the optimizer's mark in a profile.
NONE = ("aten::empty", "aten::new_empty", "profiler::")


def kept_groups(batch: int, classes: int, dtype: torch.dtype) -> int:
    """Return the blocks of sprout_loss_rows_kernel, for rows that fit shared memory."""
    packet = 8 if dtype.itemsize == 2 else 4
    packets = (
        -(-classes // packet) if classes % packet == 0 else -(-(classes + packet - 1) // packet)
    )
    lanes = 1
    while lanes < min(packets, 256):
        lanes *= 2
    return -(-batch // max(128 // lanes, 2))


def finish_sums(groups: int, classes: int) -> bool:
    """Return whether the finish kernel adds up the groups itself."""
    return groups <= 32 and groups * classes <= 8192


def own_launches(op: str, arguments: tuple[Any, ...]) -> int:
    """Return the launches of one of sprout_fast's ops, for at most 14,400 classes."""
    logits = next((a for a in arguments if isinstance(a, Tensor)), None)
    if op == "sprout_loss_":
        assert logits is not None
        batch, classes = logits.shape
        groups = kept_groups(batch, classes, logits.dtype)
        return 2 + (not finish_sums(groups, classes))  # rows, sum over blocks, finish
    if op == "sprout_loss":
        return 2 + (arguments[-2] and arguments[9] != "none")  # rows, mean, sum over blocks
    if op == "sprout_loss_backward":
        return 1 + (arguments[9] != "none")
    if op == "generalized_cross_entropy":
        return 2
    return 1


class Launches(TorchDispatchMode):
    """Counts launches by the operation that makes them."""

    def __init__(self) -> None:
        super().__init__()
        self.by_op: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        aliases = [r.alias_info for r in func._schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in aliases)
        if name.startswith("sprout_fast::"):
            self.by_op[name] += own_launches(name.removeprefix("sprout_fast::"), args)
        elif not is_view and not name.startswith(NONE):
            self.by_op[name] += SEVERAL.get(name, 1)
        return func(*args, **(kwargs or {}))


class Logits(nn.Module):
    """Logits that are a parameter: a network that launches nothing."""

    def __init__(self, batch: int, classes: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(batch, classes, dtype=dtype, device="meta"))

    def forward(self, images: Tensor) -> Tensor:
        return self.weight.view_as(self.weight)


class NoOptimizer(torch.optim.SGD):
    def step(self, closure=None):
        return None


def count(method: str, batch: int, classes: int, amp: torch.dtype | None = None) -> Counter[str]:
    """Return the launches of the second training step by the operation that makes them."""
    model = Logits(batch, classes, amp or torch.float32)
    optimizer = NoOptimizer(model.parameters(), lr=0.1)
    scheduler = build_scheduler(optimizer, warmup_steps=0, total_steps=100)
    optimize = OptimizeStep(model, model, optimizer, scheduler, GradScaler("cuda", enabled=False))
    optimize._trained = model  # without autocast, which meta tensors do not know
    optimize.meter = Meter(torch.device("meta"))
    mean, std = (0.5,) * 3, (0.25,) * 3
    dtype = amp or torch.float32
    setting = MethodSetting(classes, mean, std, dtype=dtype, device=torch.device("meta"))
    built = build_method(method, setting).train()
    nhwc = torch.zeros(batch, 8, 8, 3, dtype=torch.uint8, device="meta")
    labels = torch.zeros(batch, dtype=torch.int64, device="meta")
    for _ in range(2):
        with Launches() as launches:
            built.training_step(optimize, nhwc.permute(0, 3, 1, 2), labels)
    return launches.by_op


#: Method, precision, batch and classes of the table's rows.
ROWS = (
    ("sprout", None, 128, 10),
    ("sprout", torch.bfloat16, 256, 1000),
    ("natural", None, 128, 10),
    ("natural", torch.bfloat16, 256, 1000),
)


def table() -> str:
    """Return the counts as a Markdown table."""
    rows = []
    for method, amp, batch, classes in ROWS:
        by_op = count(method, batch, classes, amp)
        listed = ", ".join(
            f"{name.split('::')[1]}{f' {n}' if n > 1 else ''}" for name, n in by_op.items()
        )
        precision = "float32" if amp is None else "bf16"
        rows.append([method, f"{batch}×{classes}, {precision}", str(by_op.total()), listed])
    return markdown_table(["method", "batch", "launches", "of which"], rows, left=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--page", type=Path, help="page to write the table to")
    options = parser.parse_args()
    found = table()
    print(found)
    if options.page is not None:
        replace_section(options.page, "launches", found)


if __name__ == "__main__":
    main()
