"""What each op's kernels have to move: bytes an element, from the types they are compiled for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kernel_report.disassembly import SIZES, Kernel


@dataclass(frozen=True)
class Contract:
    """Bytes of one element of the op's large tensors.

    Args:
        moved: that have to come from memory and go there, once a pass over it.
        cached: accessed besides, and served by caches: numbers that all rows or images share, and
            what the same block has touched before.
        turns: that a thread makes on large data, where the launch fixes them; None: as many as the
            data asks for.
        samples: whether loops inside a turn are counted once an element (a series; a sampler's
            attempt, although it serves a pair). The data decide how often exactly.
    """

    moved: int
    cached: int = 0
    turns: int | None = None
    samples: bool = False


_BETA = SIZES["fp32"]


def _target(name: str) -> int:
    return 0 if name == "int64" else SIZES[name]  # labels are a number a row


#: By Kernel.op; the arguments are the kernel's template arguments (csrc/ops/cuda/*_kernel.cuh).
CONTRACTS: dict[str, Callable[..., Contract]] = {
    # Both images in, the mixture out. kMixupPackets a thread.
    "gaussian_mixup": lambda images, out, *_: Contract(2 * SIZES[images] + SIZES[out], turns=8),
    # An image's own mixture and that of the image whose partner it is.
    "gaussian_mixup_backward": lambda grad, images, *_: Contract(SIZES[images] + 2 * SIZES[grad]),
    "pgd_step": lambda x, grad, *_: Contract(3 * SIZES[x] + SIZES[grad]),
    "log_gamma": lambda t: Contract(2 * SIZES[t], samples=True),
    "log_gamma_backward": lambda t: Contract(4 * SIZES[t], samples=True),
    # The log variates wait in the output, which is read and written again.
    "dirichlet": lambda t, *_: Contract(2 * SIZES[t], 2 * SIZES[t], samples=True),
    # Two passes: z and its gradient are read twice.
    "dirichlet_backward": lambda t, *_: Contract(4 * SIZES[t], 2 * SIZES[t], samples=True),
    "generalized_cross_entropy": lambda logits, target, *_: Contract(
        SIZES[logits] + _target(target)
    ),
    "generalized_cross_entropy_backward": lambda logits, target, *_: Contract(
        2 * (SIZES[logits] + _target(target))
    ),
    "sprout_loss_rows": lambda logits, *_: Contract(SIZES[logits], _BETA, samples=True),
    "sprout_loss_grad": lambda logits, *_: Contract(2 * SIZES[logits], _BETA, samples=True),
}


def contract_of(kernel: Kernel) -> Contract | None:
    """The kernel's contract; None for one that runs over rows or blocks and not over elements."""
    make = CONTRACTS.get(kernel.op)
    return make(*kernel.arguments) if make else None
