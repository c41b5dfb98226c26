"""What all of bench_*.py share: sizes, and what a line of the table is.

SPROUT_FAST_BENCH=tiny shrinks everything, to see that it runs (tests/test_bench_summary.py).
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
# Of calls after one another, so that no branch predictor learns one call's draws by heart.
STATES = cycle([torch.tensor([1, offset, 0]) for offset in range(256)])


@dataclass
class Case:
    """One line of the table: what runs on what, and what it is compared with.

    Args:
        op, size, what: for people; ``what`` is FORWARD or WITH_BACKWARD.
        bytes: that have to move: inputs read and outputs written once, by each pass for itself.
        functions: by contestant, each taking ``arguments``; under torch.compile goes "eager".
        leaves: what WITH_BACKWARD differentiates in, where a contestant uses it (cross entropy has
            no beta).
        setting: which of the op's settings, the same for all contestants.
        extra: for the JSON.
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
        """What is timed."""
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
            grad = torch.randn_like(function(*self.arguments))

        def run() -> object:
            out = function(*self.arguments)
            return torch.autograd.grad(out, self.leaves, grad, allow_unused=True)

        return run


@cache
def compiled(function: Callable[..., object]) -> Callable[..., object]:
    """Every size compiled for itself; in the tiny run by Dynamo alone, without a C++ compiler."""
    torch._dynamo.config.recompile_limit = 64
    torch._inductor.config.compile_threads = 1  # no pool of workers beside what is timed
    return torch.compile(function, dynamic=False, backend="eager" if TINY else "inductor")
