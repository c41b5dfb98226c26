"""Sizes, and the rows of the table, shared by all of bench_*.py.

``SPROUT_FAST_BENCH=tiny`` shrinks everything for a test run (tests/benchmarks/test_summary.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import cycle

import torch
import torch._inductor.config
from torch import Tensor

TINY = os.environ.get("SPROUT_FAST_BENCH") == "tiny"
IMAGES = [(3, 8)] if TINY else [(128, 32), (64, 224)]  # batch, side
ROWS = [(3, 5)] if TINY else [(128, 10), (256, 1000), (64, 100_000)]  # batch, classes
FORWARD, WITH_BACKWARD = "forward", "forward+backward"
# Consecutive calls get different states, so that no branch predictor can learn a call's samples.
STATES = cycle([torch.tensor([1, offset, 0]) for offset in range(256)])


@dataclass
class Case:
    """One row of the table: an op with its inputs, and what it is compared with.

    Args:
        op, size, what: displayed; ``what`` is FORWARD or WITH_BACKWARD.
        bytes: bytes that must move: each pass reads its inputs and writes its outputs once.
        functions: by contestant, called with ``arguments``; "eager" is also run under
            torch.compile.
        arguments: inputs of all contestants.
        leaves: tensors to differentiate with respect to, if WITH_BACKWARD and the contestant uses
            them (cross entropy has no beta).
        setting: setting of the op, the same for all contestants.
        extra: further content of the JSON.
    """

    op: str
    size: str
    what: str
    bytes: int
    functions: dict[str, Callable[..., object]]
    arguments: tuple = ()
    leaves: Sequence[Tensor] = ()
    setting: str = ""
    extra: dict[str, object] = field(default_factory=dict)

    def call(self, contestant: str) -> Callable[[], object]:
        """Return the call to time."""
        if contestant == "memcpy":
            source = torch.ones(-(-self.bytes // 2), dtype=torch.uint8)
            return partial(torch.empty_like(source).copy_, source)
        if contestant == "compiled":
            function = compiled(self.functions["eager"])
        else:
            function = self.functions[contestant]
        if self.what == FORWARD:
            return torch.no_grad()(partial(function, *self.arguments))
        with torch.no_grad():
            out = function(*self.arguments)
        # Training starts from the loss, and so from 1 (loss.backward()).
        grad = torch.randn_like(out) if out.dim() else torch.ones_like(out)

        def run() -> object:
            out = function(*self.arguments)
            return torch.autograd.grad(out, self.leaves, grad, allow_unused=True)

        return run


@cache
def compiled(function: Callable[..., object]) -> Callable[..., object]:
    """Compile separately for every size; a tiny run uses Dynamo alone, without a C++ compiler."""
    torch._dynamo.config.recompile_limit = 64
    torch._inductor.config.compile_threads = 1  # no worker processes during timing
    return torch.compile(function, dynamic=False, backend="eager" if TINY else "inductor")
