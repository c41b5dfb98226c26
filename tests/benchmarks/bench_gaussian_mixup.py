"""Benchmark gaussian_mixup on channels-last uint8 images against PyTorch's operations.

"fresh" gets new pages for the output in each call, as training does at ImageNet's size, so that
page faults are included; "warm" writes to memory that an earlier call has written.
"""

import composites
import pytest
import torch
from composites import MEAN, STD
from harness import FORWARD, IMAGES, STATES, WITH_BACKWARD, Case

from sprout_fast import gaussian_mixup, sample_mixup

CONTESTANTS = ("sprout_fast", "eager", "compiled", "memcpy")


def mixup_case(
    batch, side, *, dtype=torch.float32, floating=False, what=None, parts=True, setting=""
) -> Case:
    """Return the case of a uint8 batch, or of a float32 batch with gradient to the images.

    Without ``parts``, images are only normalized.
    """
    what = what or (WITH_BACKWARD if floating else FORWARD)
    images = torch.randint(256, (batch, 3, side, side), dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last)
    if floating:
        images = (images / 255).requires_grad_()
    partner, lam = sample_mixup(batch, torch.tensor([1, 2, 0])) if parts else (None, None)
    options = dict(sigma=0.1 if parts else 0, mean=MEAN, std=STD, dtype=dtype)

    def ours(images, partner, lam, mean, std, dtype):
        return gaussian_mixup(images, partner, lam, next(STATES), **options)

    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    reads = (2 if parts else 1) * images.element_size()
    backward = images.numel() * (images.element_size() + 2 * dtype.itemsize)
    return Case(
        "gaussian_mixup",
        f"{batch}×3×{side}×{side}",
        what,
        images.numel() * (reads + dtype.itemsize) + (backward if what == WITH_BACKWARD else 0),
        {"sprout_fast": ours, "eager": composites.gaussian_mixup},
        (images, partner, lam, mean, std, dtype),
        leaves=(images,),
        setting=setting or f"{images.dtype} to {dtype}".replace("torch.", ""),
    )


@pytest.mark.parametrize("contestant", CONTESTANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch, side", IMAGES)
def test_fresh(measure, contestant, batch, side, dtype):
    setting = f"to {dtype}, fresh".replace("torch.", "")
    measure(mixup_case(batch, side, dtype=dtype, setting=setting), contestant, memory="fresh")


@pytest.mark.parametrize("contestant", CONTESTANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch, side", IMAGES)
def test_warm(measure, contestant, batch, side, dtype):
    setting = f"to {dtype}, warm".replace("torch.", "")
    measure(mixup_case(batch, side, dtype=dtype, setting=setting), contestant, memory="warm")


@pytest.mark.parametrize("contestant", CONTESTANTS)
@pytest.mark.parametrize("memory", ["fresh", "warm"])
@pytest.mark.parametrize("batch, side", IMAGES)
def test_normalization_only(measure, contestant, batch, side, memory):
    """Without noise and Mixup, as in natural training."""
    setting = f"to float32, {memory}, normalized only"
    measure(mixup_case(batch, side, parts=False, setting=setting), contestant, memory=memory)


@pytest.mark.parametrize("contestant", CONTESTANTS)
@pytest.mark.parametrize("what", [FORWARD, WITH_BACKWARD])
@pytest.mark.parametrize("batch, side", IMAGES)
def test_gradient_to_images(measure, contestant, batch, side, what):
    case = mixup_case(batch, side, floating=True, what=what, setting="from float32")
    measure(case, contestant, memory="warm")
