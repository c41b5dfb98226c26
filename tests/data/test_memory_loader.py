"""The memory loader: its crops, flips and random numbers. (What all loaders share:
test_loaders.py.)
"""

import time

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision.transforms import Compose, RandomCrop, RandomHorizontalFlip
from torchvision.transforms.v2 import functional

from sprout_fast.data.listing import ArraySplit
from sprout_fast.data.loaders.memory import MemoryLoader, crop_and_flip

CPU = torch.device("cpu")


def loader(images, **options):
    """A loader whose labels are the numbers of the images."""
    options = {"train": True, "batch_size": 32, "device": CPU, "seed": 0} | options
    return MemoryLoader(ArraySplit(np.arange(len(images)), images.numpy()), **options)


def random_images(count, height=32, width=32, channels=3):
    shape = (count, height, width, channels)
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=torch.Generator())


@pytest.mark.parametrize("shape", [(32, 32), (7, 12), (5, 3)])
def test_every_crop_and_flip_matches_torchvision(shape):
    offsets = torch.cartesian_prod(torch.arange(9), torch.arange(9), torch.arange(2))
    images = random_images(len(offsets), *shape)
    top, left, flip = offsets.unbind(1)
    got = crop_and_flip(images, top, left, flip.bool())
    assert got.is_contiguous()
    for number, (row, column, mirror) in enumerate(offsets.tolist()):
        image = images[number].permute(2, 0, 1)
        expected = functional.crop(functional.pad(image, [4]), row, column, *shape)
        expected = functional.horizontal_flip(expected) if mirror else expected
        assert torch.equal(got[number].permute(2, 0, 1), expected)


def placed(batches):
    """Return top, left, flip of 32 x 32 crops of images whose pixels hold (row, column) from 1."""
    images = torch.cat([images for images, _ in batches]).long()
    row, column = images[:, 0, 16, 16] - 1, images[:, 1, 16, 16] - 1
    flip = images[:, 1, 16, 15] > images[:, 1, 16, 16]
    left = torch.where(flip, column - 15, column - 16) + 4
    return row - 16 + 4, left, flip


def test_crops_are_uniform_and_half_are_flipped():
    """12,000 crops: chi-square over places and flips, with one false alarm in a million runs."""
    side = torch.arange(1, 33, dtype=torch.uint8)
    image = torch.stack([side[:, None].expand(32, 32), side.expand(32, 32), side.expand(32, 32)], 2)
    train = loader(image.expand(1000, -1, -1, -1).contiguous(), batch_size=1000, seed=3)
    batches = [batch for _ in range(12) for batch in train]
    top, left, flip = placed(batches)
    counts = (top * 18 + left * 2 + flip).bincount(minlength=162)
    assert len(counts) == 162
    assert stats.chisquare(counts.numpy()).pvalue > 1e-6
    # Places are independent of the neighbor's in the batch and of the previous epoch's.
    place = top * 9 + left
    by_image = torch.stack([1000 * i + labels.argsort() for i, (_, labels) in enumerate(batches)])
    for first, second in ((place[:-1], place[1:]), (place[by_image[:-1]], place[by_image[1:]])):
        same = (first == second).float()
        expected = 1 / 81
        assert abs(same.mean() - expected) < 5 * (expected / same.numel()) ** 0.5


def by_number(*loaders):
    """Return the images of one epoch by number."""
    return {
        number: image
        for each in loaders
        for images, labels in each
        for number, image in zip(labels.tolist(), images, strict=True)
    }


def test_images_depend_on_neither_batch_size_nor_ranks():
    images = random_images(48)
    whole = [loader(images, batch_size=4), loader(images, batch_size=16)]
    ranks = [loader(images, batch_size=8, shard_id=rank, num_shards=3) for rank in range(3)]
    for _ in range(2):
        first, second, third = by_number(whole[0]), by_number(whole[1]), by_number(*ranks)
        assert first.keys() == second.keys() == third.keys() == set(range(48))
        assert all(torch.equal(first[n], second[n]) for n in first)
        assert all(torch.equal(first[n], third[n]) for n in first)


def test_images_differ_from_epoch_to_epoch_and_by_seed():
    images = random_images(64)
    train = loader(images)
    first, second, other = by_number(train), by_number(train), by_number(loader(images, seed=1))
    for later in (second, other):
        changed = sum(not torch.equal(first[n], later[n]) for n in first)
        assert changed > 58  # 1 in 162 is as before by chance


def test_validation_images_are_unchanged():
    images = random_images(11)
    val = loader(images, train=False, batch_size=4)
    got = torch.cat([batch for batch, _ in val])
    assert torch.equal(got.permute(0, 2, 3, 1), images)


@pytest.mark.parametrize("train", [True, False])
def test_batches_do_not_share_the_data_sets_memory(train):
    images = random_images(8)
    before = images.clone()
    for batch, labels in loader(images, train=train, batch_size=8):
        batch.zero_()
        labels.zero_()
    assert torch.equal(images, before)


def test_global_random_state_is_unchanged():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    list(loader(random_images(8), batch_size=4))
    assert torch.equal(torch.get_rng_state(), before)


def test_number_of_threads_is_unchanged():
    threads = torch.get_num_threads()
    for _ in loader(random_images(8), batch_size=4):
        assert torch.get_num_threads() == threads


def test_five_times_as_fast_as_single_images():
    """At 128 images of CIFAR-10's size; tests/benchmarks/bench_data_memory.py measures by how much.

    The fastest of many turns of each, since other load on the machine only adds time.
    """
    train = loader(random_images(128 * 30), batch_size=128)
    batches = iter(train)
    of_one = Compose([RandomCrop(32, padding=4), RandomHorizontalFlip()])
    images = random_images(128)
    pil = [Image.fromarray(image.numpy()) for image in images]
    tensors = list(images.permute(0, 3, 1, 2).contiguous())
    contestants = {
        "batch": lambda: next(batches),
        "tensors": lambda: [of_one(image) for image in tensors],
        "PIL": lambda: [of_one(image) for image in pil],
    }
    fastest = dict.fromkeys(contestants, float("inf"))
    for _ in range(20):
        for name, call in contestants.items():
            start = time.perf_counter()
            call()
            fastest[name] = min(fastest[name], time.perf_counter() - start)
    assert min(fastest["tensors"], fastest["PIL"]) > 5 * fastest["batch"]
