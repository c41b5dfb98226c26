"""Bytes per element that each op's kernels have to move, from their template arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from kernel_report.disassembly import SIZES, Kernel

WIDE = 16  # bytes of a 128-bit access, the widest that sm_80 and sm_90 have


@dataclass(frozen=True)
class Contract:
    """Memory traffic of one element of the op's large tensors.

    Args:
        moved: bytes per element that must be read from or written to device memory.
        cached: further bytes per element that are accessed but served by caches: values shared by
            all rows or images, and data that the same block has already touched.
        load, store: bytes of the accesses by which aligned data is loaded and stored.
        stored: bytes per element that are stored, if only stores tell how many elements an
            iteration computes: loads that differ by layout, or are as wide as those of other data.
        iterations: loop iterations per thread on large inputs if the launch fixes their number;
            None if it depends on the input size.
        samples: whether loops inside an iteration are counted once per element (a series, or one
            attempt of a sampler even though an attempt serves two elements). How often they
            actually run depends on the data.
    """

    moved: int
    cached: int = 0
    load: int = WIDE
    store: int = WIDE
    stored: int | None = None
    iterations: int | None = None
    samples: bool = False


_BETA = SIZES["fp32"]


def _target(name: str) -> int:
    return 0 if name == "int64" else SIZES[name]  # class indices: one number per row


def _packets(
    moved: int, load: str, store: str, least: int = 1, iterations: int | None = None
) -> Contract:
    """Load and store packets of elements that are 128 bits of the wider type."""
    chunk = max(least, WIDE // max(SIZES[load], SIZES[store]))
    load_width, store_width = (min(WIDE, chunk * SIZES[name]) for name in (load, store))
    return Contract(
        moved, load=load_width, store=store_width, stored=SIZES[store], iterations=iterations
    )


# gaussian_mixup reads both images and writes the mixture, with kMixupIterations per thread.
def _mixup(images: str, out: str, *_: str) -> Contract:
    return _packets(2 * SIZES[images] + SIZES[out], images, out, least=4, iterations=8)


def _planes(images: str, out: str) -> Contract:
    return replace(_mixup(images, out), load=min(WIDE, 4 * SIZES[images]), store=WIDE)


def _strided(images: str, out: str, *_: str) -> Contract:
    return replace(_mixup(images, out), load=SIZES[images], store=SIZES[out])


#: By ``Kernel.op``; the arguments are the kernel's template arguments (csrc/ops/cuda/*_kernel.cuh).
CONTRACTS: dict[str, Callable[..., Contract]] = {
    "gaussian_mixup": _mixup,
    "gaussian_mixup_planes": _planes,
    "gaussian_mixup_pixels": _planes,
    "gaussian_mixup_strided": _strided,
    # Reads the gradients of an image's own mixture and of the mixture it is the partner in.
    "gaussian_mixup_backward": lambda grad, images, *_: _packets(
        SIZES[images] + 2 * SIZES[grad], grad, images
    ),
    "pgd_step": lambda x, grad, *_: _packets(3 * SIZES[x] + SIZES[grad], grad, x),
    "log_gamma": lambda t: Contract(2 * SIZES[t], samples=True),
    "log_gamma_backward": lambda t: Contract(4 * SIZES[t], samples=True),
    # The log variates are kept in the output, which is then read and overwritten.
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
    "meter_step": lambda logits, *_: Contract(SIZES[logits]),
}


def contract_of(kernel: Kernel) -> Contract | None:
    """Return the kernel's contract, or None if it does not iterate over elements."""
    make = CONTRACTS.get(kernel.op)
    return make(*kernel.arguments) if make else None
