"""Benchmark the modules on a small batch, where the overhead of a call shows.

``SproutLoss`` is compared with ``F.cross_entropy``, and ``SproutMixup`` with ``gaussian_mixup`` on
the same images ("op").
"""

import pytest
import torch
import torch.nn.functional as F
from composites import MEAN, STD
from harness import FORWARD, IMAGES, ROWS, STATES, WITH_BACKWARD, Case

from sprout_fast import MixupTarget, SproutLoss, SproutMixup, gaussian_mixup, sample_mixup

BATCH, CLASSES = ROWS[0]
IMAGE_BATCH, SIDE = IMAGES[0]


@pytest.mark.parametrize("contestant", ["sprout_fast", "cross_entropy"])
def test_sprout_loss_module(measure, contestant):
    logits = torch.randn(BATCH, CLASSES, requires_grad=True)
    labels, partner_labels = torch.randint(CLASSES, (2, BATCH))
    target, loss_fn = MixupTarget(labels, partner_labels, torch.tensor([0.3])), SproutLoss(CLASSES)
    functions = {
        "sprout_fast": lambda logits: loss_fn(logits, target),
        "cross_entropy": lambda logits: F.cross_entropy(logits, labels),
    }
    size = f"{BATCH}×{CLASSES}"
    moved = 2 * logits.nbytes
    measure(
        Case("SproutLoss", size, WITH_BACKWARD, moved, functions, (logits,), (logits,)), contestant
    )


@pytest.mark.parametrize("contestant", ["sprout_fast", "op"])
def test_sprout_mixup_module(measure, contestant):
    images = torch.randint(256, (IMAGE_BATCH, 3, SIDE, SIDE), dtype=torch.uint8)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (IMAGE_BATCH,))
    partner, lam = sample_mixup(IMAGE_BATCH, torch.tensor([1, 2, 0]))
    mixer = SproutMixup(mean=MEAN, std=STD)
    functions = {
        "sprout_fast": lambda images: mixer(images, labels)[0],
        "op": lambda images: gaussian_mixup(images, partner, lam, next(STATES), mean=MEAN, std=STD),
    }
    size = f"{IMAGE_BATCH}×3×{SIDE}×{SIDE}"
    measure(Case("SproutMixup", size, FORWARD, 6 * images.nbytes, functions, (images,)), contestant)
