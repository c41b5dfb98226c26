"""Augmentation of training images, in all loaders that have it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from helpers.image_files import noise_image, numbers, write_folder
from torchvision.transforms import v2

from sprout_fast.data import AugmentationOptions, build_loaders, default_loader
from sprout_fast.data.decode import as_ppm, decode
from sprout_fast.data.loaders.augmentation import validation_view
from sprout_fast.data.loaders.dali import pipeline_inputs
from sprout_fast.data.loaders.erasing import rectangle
from sprout_fast.data.loaders.options import LoadingOptions
from sprout_fast.data.preprocessing import Preprocessing
from sprout_fast.errors import UserError

needs_dali = pytest.mark.skipif(default_loader() != "dali", reason="DALI is not installed")
BOTH = [pytest.param("dali", marks=needs_dali), "torch"]
both = pytest.mark.parametrize("loader", BOTH)
every = pytest.mark.parametrize("loader", [*BOTH, "memory"])
TRIVIAL, RAND = {"auto_augment": "trivial"}, {"auto_augment": "rand", "rand_magnitude": 20}
ALL = {"auto_augment": "trivial", "erasing": 0.5, "repeated_augmentation": 3}
MEAN = (0.2, 0.4, 0.8)
BILINEAR = v2.InterpolationMode.BILINEAR


def build(data: Path, loader: str, options: dict | None = None, **changes):
    size = None if loader == "memory" else 24
    workers = 1 if loader == "dali" else 0
    augmentation = AugmentationOptions(**options or {})
    settings = {"batch_size": 4, "image_size": size, "workers": workers, "mean": MEAN} | changes
    return build_loaders(data, loader=loader, augmentation=augmentation, **settings)


def own(loader: str, options: dict) -> dict:
    """Return those of the options that the loader has."""
    return options | ({"auto_augment": "none"} if loader == "memory" else {})


def images_of(loader) -> torch.Tensor:
    return torch.cat([images for images, _ in loader])


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {"train": {"a": 11, "b": 11}, "val": {"a": 3, "b": 4}}
    return write_folder(tmp_path_factory.mktemp("noise"), counts, noise_image)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """22 training images of one color each, numbers 0 to 21."""
    counts = {"train": {"a": 11, "b": 11}, "val": {"a": 3, "b": 4}}
    return write_folder(tmp_path_factory.mktemp("plain"), counts)


@every
def test_augmented_images_depend_on_neither_batch_size_nor_ranks_nor_workers(
    noise: Path, loader: str
) -> None:
    options = own(loader, ALL)
    random_state = torch.get_rng_state()
    whole = images_of(build(noise, loader, options, batch_size=22).train)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(images_of(build(noise, loader, options, batch_size=5).train), whole[:20])
    two = build(noise, loader, options, batch_size=11, workers=2).train
    assert torch.equal(images_of(two), whole)
    for rank in range(2):
        shard = build(noise, loader, options, batch_size=11, num_shards=2, shard_id=rank).train
        assert torch.equal(images_of(shard), whole[rank::2])
    assert not torch.equal(images_of(build(noise, loader, batch_size=22).train), whole)


@every
@pytest.mark.parametrize("policy", ["trivial", "rand"])
def test_augmentation_resumes_exactly(noise: Path, loader: str, policy: str) -> None:
    options = own(loader, ALL | {"auto_augment": policy})
    train = build(noise, loader, options).train
    epochs = [list(train) for _ in range(3)]
    before = build(noise, loader, options).train
    list(before)
    next(iter(before))
    after = build(noise, loader, options).train
    after.load_state_dict(before.state_dict(batches=2))
    for resumed, expected in zip([*after, *after], epochs[1][2:] + epochs[2], strict=True):
        assert all(map(torch.equal, resumed, expected))
    assert not torch.equal(epochs[1][0][0], epochs[2][0][0])


@every
def test_validation_images_are_not_augmented(noise: Path, loader: str) -> None:
    augmented = build(noise, loader, own(loader, ALL | {"erasing": 1.0})).val
    assert torch.equal(images_of(augmented), images_of(build(noise, loader).val))


@both
@pytest.mark.parametrize(("options", "unchanged"), [(TRIVIAL, 0.09), (RAND, 0.0061)])
def test_policies_change_as_many_images_as_they_should(
    tmp_path: Path, loader: str, options: dict, unchanged: float
) -> None:
    """Of 14 operations, identity leaves an image as it is, as do some at their least magnitude:
    1/14 + 12/14/31 is .099 of TrivialAugment's, 1/14² is .005 of two of RandAugment's."""
    write_folder(tmp_path, {"train": {"a": 100}, "val": {"a": 1}}, noise_image)
    size = {"batch_size": 100, "image_size": 32}
    one, two = build(tmp_path, loader, **size).train, build(tmp_path, loader, options, **size).train
    same = [
        bool(torch.equal(first, second))
        for _ in range(4)
        for first, second in zip(images_of(one), images_of(two), strict=True)
    ]
    error = (unchanged * (1 - unchanged) / len(same)) ** 0.5
    assert abs(np.mean(same) - unchanged) < 5 * error


@needs_dali
@pytest.mark.parametrize("policy", ["trivial", "rand"])
def test_dalis_operations_are_torchvisions(policy: str) -> None:
    """Each at the same magnitude; interpolation, rounding and the sign of a direction differ."""
    from nvidia.dali.auto_aug.trivial_augment import get_trivial_augment_wide_suite

    from sprout_fast.data.dali import views

    theirs = v2.TrivialAugmentWide() if policy == "trivial" else v2.RandAugment()
    options = AugmentationOptions(auto_augment=policy, rand_ops=1)
    level, size = 15, 331  # translations by whole pixels, which torchvision would round
    pixels = np.asarray(noise_image(3, (size, size)))
    image, view = torch.tensor(pixels).permute(2, 0, 1), validation_view(size, size, size, size)
    suite = get_trivial_augment_wide_suite()
    rows = [np.array([[i % 14, level, i // 14]], np.int32) for i in range(2 * len(suite))]
    inputs = (*pipeline_inputs([as_ppm(pixels)] * len(rows), [view] * len(rows)), rows)
    settings = {"batch_size": len(rows), "num_threads": 1, "device_id": None}
    (output,) = views(lambda: inputs, size, LoadingOptions(), options, **settings).run()
    mine = torch.from_numpy(np.asarray(output.as_tensor()).copy()).permute(0, 3, 1, 2).int()
    for i, operation in enumerate(suite):
        name = operation.name.replace("_", " ").title().replace(" ", "")
        magnitudes, signed = theirs._AUGMENTATION_SPACE[name]
        found = magnitudes(31, size, size)
        value = 0.0 if found is None else float(found[level])

        def distance(number: int, value: float, name: str = name) -> float:
            other = theirs._apply_image_or_video_transform(
                image, name, value, BILINEAR, theirs._fill
            )
            return (mine[number] - other).abs()[:, 2:-2, 2:-2].float().mean().item()

        signs = (value, -value) if signed else (value, value)
        both = [max(distance(i, one), distance(i + 14, two)) for one, two in (signs, signs[::-1])]
        assert min(both) < 4, name
        if name not in ("Identity", "AutoContrast"):  # the image has black and white
            assert (mine[i] != image).any(), name


@needs_dali
@pytest.mark.parametrize("decode", ["auto", "cpu"])
@pytest.mark.parametrize("policy", ["trivial", "rand"])
def test_a_policy_has_a_graph_for_a_gpu(policy: str, decode: Literal["auto", "cpu"]) -> None:
    """One can be defined, but not run, on any machine."""
    from sprout_fast.data.dali import views

    options = AugmentationOptions(auto_augment=policy)
    settings = {"batch_size": 2, "num_threads": 1, "device_id": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline = views(lambda: (), 24, LoadingOptions(decode=decode), options, **settings)
    assert pipeline.device_id == 0


@every
def test_repeated_augmentation_shows_a_part_of_the_images_several_times(
    plain: Path, loader: str
) -> None:
    options = {"repeated_augmentation": 4}
    train = build(plain, loader, options, batch_size=2).train
    assert (len(train), train.num_images) == (11, 22)
    epochs = [[n for images, _ in train for n in numbers(images)] for _ in range(2)]
    for seen in epochs:
        firsts = seen[::4]
        assert len(set(firsts)) == 6 and seen == [n for n in firsts for _ in range(4)][:22]
    assert set(epochs[0]) != set(epochs[1])
    # Each rank has copies of its own of the same images.
    ranks = [build(plain, loader, options, num_shards=4, shard_id=r).train for r in range(4)]
    orders = [[n for images, _ in rank for n in numbers(images)] for rank in ranks]
    assert orders == [epochs[0][:16:4]] * 4
    labels = [label for _, labels in ranks[0] for label in labels.tolist()]
    again = build(plain, loader, options, num_shards=4).train
    list(again)
    assert labels == [int(n >= 11) for images, _ in again for n in numbers(images)]


@every
def test_copies_of_an_image_differ(noise: Path, loader: str) -> None:
    train = build(noise, loader, {"repeated_augmentation": 4}, batch_size=4).train
    for images, labels in train:
        assert len({image.numpy().tobytes() for image in images}) >= 3  # a crop may be drawn twice
        assert len(set(labels.tolist())) == 1


def test_another_number_of_repetitions_starts_the_epoch_again(noise: Path) -> None:
    before = build(noise, "torch", {"repeated_augmentation": 2}).train
    after = build(noise, "torch").train
    after.load_state_dict(before.state_dict(batches=2))
    assert after.images_done == 0


@every
def test_erasing_fills_a_rectangle_with_the_mean(plain: Path, loader: str) -> None:
    color = torch.tensor([51, 102, 204], dtype=torch.uint8)
    size = {} if loader == "memory" else {"image_size": 32}
    train = build(plain, loader, {"erasing": 0.5}, batch_size=22, **size).train
    unerased = build(plain, loader, batch_size=22, **size).train
    erased = 0
    for _ in range(4):
        for image, original in zip(images_of(train), images_of(unerased), strict=True):
            changed = (image != original).any(0)
            erased += bool(changed.any())
            assert (image[:, changed] == color[:, None]).all()
            rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
            if len(rows):
                box = changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
                assert box.all()
    assert abs(erased - 44) < 5 * (88 / 4) ** 0.5


def test_erased_rectangles_have_torchvisions_sizes() -> None:
    """Means of 4,000 of each agree within five standard errors."""
    random = np.random.default_rng(0)
    mine = [rectangle(60, 40, random) for _ in range(4000)]
    image = torch.zeros(3, 60, 40)
    torch.manual_seed(0)
    theirs = [v2.RandomErasing(p=1.0).make_params([image]) for _ in range(4000)]
    sizes = np.array([box[2:] for box in mine if box is not None], float)
    others = np.array([(box["h"], box["w"]) for box in theirs if box["v"] is not None], float)
    error = (sizes.var(0) / len(sizes) + others.var(0) / len(others)) ** 0.5
    assert (abs(sizes.mean(0) - others.mean(0)) < 5 * error).all()
    for box in mine:
        assert box is not None
        top, left, height, width = box
        assert 0 <= top <= 60 - height and 0 <= left <= 40 - width


@both
@pytest.mark.parametrize("resize", [None, 30])
def test_validation_images_may_have_another_size(noise: Path, loader: str, resize: int) -> None:
    loaders = build(noise, loader, val_image_size=28, val_resize=resize, batch_size=7)
    assert images_of(loaders.train).shape[-2:] == (24, 24)
    images = images_of(loaders.val)
    pixels = decode((noise / "val" / "a" / "000.jpg").read_bytes(), "000.jpg").pixels
    expected = Preprocessing(28, resize)(torch.tensor(pixels).permute(2, 0, 1))
    assert (images[0].int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("loader", "options", "changes", "says"),
    [
        ("torch", {"auto_augment": "trivail"}, {}, "auto_augment trivail: expected one of none"),
        ("torch", {"rand_magnitude": 31}, {}, "rand_magnitude 31: expected a number from 0 to 30"),
        ("torch", {"rand_ops": 0}, {}, "rand_ops 0: expected a number of at least 1"),
        ("torch", {"erasing": 1.5}, {}, "erasing 1.5: expected a number from 0 to 1"),
        ("torch", {"erasing": float("nan")}, {}, "erasing nan: expected a number from 0 to 1"),
        ("torch", {"repeated_augmentation": 0}, {}, "repeated_augmentation 0: expected a number"),
        ("torch", {}, {"val_resize": 20}, "val_resize 20: is smaller than the crop of 24 pixels"),
        ("memory", {}, {"val_resize": 40}, "val_resize 40: the memory loader uses images as"),
        ("memory", {}, {"val_image_size": 40}, "val_image_size 40: the memory loader"),
        ("memory", {"auto_augment": "trivial"}, {}, "auto_augment trivial: loaders dali and torch"),
    ],
)
def test_options_that_do_not_fit(
    noise: Path, loader: str, options: dict, changes: dict, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        build(noise, loader, options, **changes)
