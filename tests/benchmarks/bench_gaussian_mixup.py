"""gaussian_mixup against PyTorch's own operations, eager and compiled, and a copy of the same
bytes.

ImageNet's batch, uint8 in channels-last, float32 out. "fresh": the output is allocated in the call,
as it is in training, so that page faults are counted; "warm": the allocator hands out memory that
has been written before (here by keeping the last output alive until the next call).
"""

import pytest
import torch

from sprout_fast import draw_mixup, gaussian_mixup

BATCH, CHANNELS, SIZE = 64, 3, 224
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
STATE = torch.tensor([1, 2, 0])


@pytest.fixture(scope="module")
def batch():
    images = torch.randint(256, (BATCH, CHANNELS, SIZE, SIZE), dtype=torch.uint8)
    return images.contiguous(memory_format=torch.channels_last), *draw_mixup(STATE, BATCH)


def composite(images, partner, lam):
    """The same distribution by PyTorch's operations."""
    x = images.float() / 255
    x = lam.view(-1, 1, 1, 1) * x + (1 - lam).view(-1, 1, 1, 1) * x[partner]
    spread = 0.1 * (lam**2 + (1 - lam) ** 2).sqrt().view(-1, 1, 1, 1)
    return (x + spread * torch.randn_like(x) - MEAN) / STD


def fused(images, partner, lam, **options):
    return gaussian_mixup(
        images,
        partner,
        lam,
        STATE,
        mean=MEAN.flatten().tolist(),
        std=STD.flatten().tolist(),
        **options,
    )


def test_sprout_fast(benchmark, batch):
    benchmark(fused, *batch)


def test_sprout_fast_bfloat16(benchmark, batch):
    benchmark(fused, *batch, dtype=torch.bfloat16)


def test_sprout_fast_normalisation_only(benchmark, batch):
    benchmark(lambda: fused(batch[0], None, None, sigma=0))


def test_eager(benchmark, batch):
    benchmark(composite, *batch)


def test_compiled(benchmark, batch):
    compiled = torch.compile(composite)
    compiled(*batch)
    benchmark(compiled, *batch)


def test_copy_of_the_output(benchmark, batch):
    """The memory floor in warm memory: as many bytes as the op writes, read and written."""
    source = torch.zeros(BATCH, CHANNELS, SIZE, SIZE)
    target = torch.zeros_like(source)
    benchmark(target.copy_, source)
