"""All loaders: what their batches hold, in which order, and what they refuse.

What the one for small images in memory does besides: test_data_memory.py, test_data_decoded.py.
"""

import io
from collections import Counter

import numpy as np
import pytest
import torch
from helpers.image_files import noise_image, numbers, plain_image, write_folder
from PIL import Image

import sprout_fast.data
from sprout_fast.data import build_loaders, build_memory_loaders, default_loader
from sprout_fast.errors import UserError

CPU = torch.device("cpu")
needs_dali = pytest.mark.skipif(default_loader() != "dali", reason="DALI is not installed")
BOTH = [pytest.param("dali", marks=needs_dali), "torch"]
both = pytest.mark.parametrize("loader", BOTH)
every = pytest.mark.parametrize("loader", [*BOTH, "memory"])


def build(data, loader, **options):
    if loader == "memory":
        return build_memory_loaders(data, **({"batch_size": 4, "device": CPU, "seed": 0} | options))
    options = {"batch_size": 4, "image_size": 24, "device": CPU, "seed": 0, "workers": 1} | options
    return build_loaders(data, loader=loader, **options)


def epoch(loader):
    """Batches of one epoch as (numbers of the images, labels)."""
    return [(numbers(images), labels.tolist()) for images, labels in loader]


def order(loader):
    return [number for batch, _ in epoch(loader) for number in batch]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """22 training images, numbers 0 to 21, labels 0 0 ... 1 1 ... 2; 11 for validation."""
    counts = {"train": {"a": 9, "b": 7, "c": 6}, "val": {"a": 5, "c": 6}}
    return write_folder(tmp_path_factory.mktemp("plain"), counts)


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    counts = {"train": {"a": 5, "b": 6}, "val": {"a": 3, "b": 4}}
    return write_folder(tmp_path_factory.mktemp("noise"), counts, noise_image)


def label_of(number):
    return 0 if number < 9 else 1 if number < 16 else 2


@every
def test_batches_are_uint8_channels_last(plain, loader):
    loaders = build(plain, loader)
    assert loaders.classes == ["a", "b", "c"]
    assert "\n" not in loaders.description
    assert "22 training and 11 validation images of 3 classes" in loaders.description
    for split in (loaders.train, loaders.val):
        images, labels = next(iter(split))
        assert images.shape == (4, 3, *((32, 40) if loader == "memory" else (24, 24)))
        assert images.dtype == torch.uint8
        assert images.permute(0, 2, 3, 1).is_contiguous()
        assert labels.shape == (4,)
        assert labels.dtype == torch.int64


@every
def test_training_epoch_holds_each_image_once_with_its_label(plain, loader):
    train = build(plain, loader).train
    assert (len(train), train.num_images, train.batch_size) == (5, 22, 4)
    epochs = [epoch(train) for _ in range(3)]
    for batches in epochs:
        assert [len(batch) for batch, _ in batches] == [4] * 5  # 22 = 5 * 4 + 2 dropped
        seen = [number for batch, _ in batches for number in batch]
        assert len(set(seen)) == 20
        assert [label_of(n) for n in seen] == [label for _, labels in batches for label in labels]
    orders = [[number for batch, _ in batches for number in batch] for batches in epochs]
    assert orders[0] != orders[1] != orders[2]
    assert orders[0] != sorted(orders[0])
    # Not the same two are dropped every time.
    assert len({number for seen in orders for number in seen}) > 20


@every
def test_seed_fixes_the_order(plain, loader):
    first, same, other = (order(build(plain, loader, seed=seed).train) for seed in (5, 5, 6))
    assert first == same
    assert first != other


@every
@pytest.mark.parametrize("batch_size", [4, 11, 16])
def test_validation_counts_each_image_once(plain, loader, batch_size):
    val = build(plain, loader, batch_size=batch_size).val
    for _ in range(2):
        batches = epoch(val)
        assert [n for batch, _ in batches for n in batch] == list(range(11))
        assert [label for _, labels in batches for label in labels] == [0] * 5 + [2] * 6
        assert len(batches) == len(val) == -(-11 // batch_size)


@every
@pytest.mark.parametrize("num_shards", [2, 3])
def test_training_shards_are_disjoint_and_equally_long(plain, loader, num_shards):
    shards = [
        build(plain, loader, batch_size=3, shard_id=shard, num_shards=num_shards).train
        for shard in range(num_shards)
    ]
    for _ in range(3):
        orders = [order(shard) for shard in shards]
        seen = sum(orders, [])
        assert len(set(seen)) == len(seen)
        assert {len(part) for part in orders} == {22 // num_shards // 3 * 3}
        assert [len(shard) for shard in shards] == [22 // num_shards // 3] * num_shards


@every
@pytest.mark.parametrize("num_shards", [2, 3, 11])
def test_validation_shards_cover_each_image_once(plain, loader, num_shards):
    shards = [
        build(plain, loader, batch_size=2, shard_id=shard, num_shards=num_shards).val
        for shard in range(num_shards)
    ]
    for _ in range(2):
        orders = [order(shard) for shard in shards]
        assert sorted(sum(orders, [])) == list(range(11))
    for shard, part in zip(shards, orders, strict=True):
        assert len(shard) == -(-len(part) // 2)


def saved_and_loaded(state):
    """The state as a checkpoint gives it back."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def assert_same(first, second):
    for (images, labels), (other_images, other_labels) in zip(first, second, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


@every
@pytest.mark.parametrize("finished", [0, 1, 2])
def test_resumed_run_sees_the_same_images(noise, loader, finished):
    """Order, crops and flips of epochs that are run after a resume are those of one long run."""
    whole = build(noise, loader).train
    epochs = [list(whole) for _ in range(4)]
    assert not torch.equal(epochs[1][0][0], epochs[2][0][0])

    before = build(noise, loader).train
    for _ in range(finished):
        list(before)
    after = build(noise, loader).train
    after.load_state_dict(saved_and_loaded(before.state_dict()))
    for number in range(finished, 4):
        assert_same(list(after), epochs[number])


@every
def test_state_of_one_rank_serves_all(noise, loader):
    def shard(shard_id):
        return build(noise, loader, batch_size=2, shard_id=shard_id, num_shards=2).train

    whole = shard(1)
    list(whole)
    expected = list(whole)

    writer = shard(0)
    list(writer)
    resumed = shard(1)
    resumed.load_state_dict(saved_and_loaded(writer.state_dict()))
    assert_same(list(resumed), expected)


@every
def test_a_broken_off_epoch_begins_again(noise, loader):
    train = build(noise, loader).train
    list(train)
    state = train.state_dict()
    first = next(iter(train))
    assert train.state_dict() == state
    assert_same([next(iter(train))], [first])
    assert len(list(train)) == len(train)
    assert train.state_dict() != state

    val = build(noise, loader, batch_size=2).val
    next(iter(val))
    assert sum(len(labels) for _, labels in val) == 7


@every
@pytest.mark.parametrize("change", [{"batch_size": 3}, {"seed": 1}, {"num_shards": 2}])
def test_state_of_another_setting_is_refused(noise, loader, change):
    state = build(noise, loader).train.state_dict()
    (name,) = change
    with pytest.raises(UserError, match=name):
        build(noise, loader, **change).train.load_state_dict(state)


@every
def test_state_of_another_loader_is_refused(noise, loader):
    other = "memory" if loader == "torch" else "torch"
    state = build(noise, other).train.state_dict()
    with pytest.raises(UserError, match=f"loader was '{other}' .* is '{loader}' now"):
        build(noise, loader).train.load_state_dict(state)


@every
def test_batches_stay_as_they_were(noise, loader):
    """No later batch is written into the memory of one that is still held."""
    train = build(noise, loader, batch_size=2).train
    held, copies = [], []
    for _ in range(6):
        for images, labels in train:
            held.append((images, labels))
            copies.append((images.clone(), labels.clone()))
    assert_same(held, copies)


def test_torch_workers_do_not_change_the_images(noise):
    torch.manual_seed(3)
    random_state = torch.get_rng_state()
    alone, two = (list(build(noise, "torch", workers=workers).train) for workers in (0, 2))
    assert_same(alone, two)
    assert torch.equal(torch.get_rng_state(), random_state)


@needs_dali
def test_validation_images_agree(tmp_path):
    """Sizes above and below the target, odd and even, portrait and landscape.

    Both decode bit for bit alike, resize to the same whole pixels by the same triangle filter and
    crop at the same place, so what is left is how each rounds: at most one level of 255, .09 to
    .2 on average. A crop that is off by one pixel would differ by several levels on average.
    """
    sizes = [(90, 70), (71, 93), (33, 57), (300, 200), (64, 64), (51, 40), (127, 333)]
    for split in ("train", "val"):
        folder = tmp_path / split / "a"
        folder.mkdir(parents=True)
        for seed, size in enumerate(sizes):
            noise_image(seed, size).save(folder / f"{seed}.jpg", quality=90)
    for image_size in (32, 57, 64):
        (dali, _), (other, _) = (
            next(iter(build(tmp_path, loader, batch_size=7, image_size=image_size).val))
            for loader in ("dali", "torch")
        )
        difference = (dali.int() - other.int()).abs()
        assert difference.max() <= 1
        assert difference.float().mean() < 0.3


@needs_dali
@pytest.mark.parametrize(("device_id", "device"), [(None, "cpu"), (0, "gpu")])
@pytest.mark.parametrize("train", [True, False])
def test_one_definition_serves_cpu_and_gpu(device_id, device, train):
    """Where the images come out; a graph with a GPU can be defined, not run, on any machine."""
    from nvidia.dali import Pipeline, fn, types

    from sprout_fast.data.loaders.dali import _augment

    with Pipeline(batch_size=1, num_threads=1, device_id=device_id):
        encoded = fn.external_source(dtype=types.UINT8, ndim=1)
        assert _augment(encoded, train, 64).device == device


@both
def test_any_colour_mode_becomes_rgb(tmp_path, loader):
    folder = tmp_path / "a"
    folder.mkdir()
    image = plain_image(7, (60, 50))
    grey = image.convert("L")
    grey.save(folder / "0_grey.jpg", quality=95)
    image.convert("CMYK").save(folder / "1_cmyk.jpg", quality=95)
    image.save(folder / "2_rgb.png")
    image.convert("RGBA").save(folder / "3_alpha.png")
    image.convert("P").save(folder / "4_palette.png")
    image.save(folder / "5_rgb.bmp")
    loaders = build(tmp_path, loader, batch_size=6)
    images, _ = next(iter(loaders.val))
    level = np.asarray(grey)[0, 0]
    centre = images[:, :, 12, 12].int()
    assert (centre[0] - int(level)).abs().max() <= 2
    target = torch.tensor(image.getpixel((0, 0)))
    assert (centre[1:4] - target).abs().max() <= 4
    assert (centre[5] - target).abs().max() == 0
    assert (centre[4] - target).abs().max() <= 51  # the palette's own steps
    assert next(iter(loaders.train))[0].shape == (6, 3, 24, 24)


@both
def test_exif_orientation_is_left_alone(tmp_path, loader):
    """As torchvision's image folder does: accuracies compare only on the same pixels."""
    (tmp_path / "a").mkdir()
    image = Image.new("RGB", (40, 40), "black")
    image.paste("white", (0, 0, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = 3  # rotated by 180 degrees
    image.save(tmp_path / "a" / "0.jpg", exif=exif)
    images, _ = next(iter(build(tmp_path, loader, batch_size=1).val))
    assert images[0, :, 2].float().mean() > 250


def crops(data, loader):
    """For each training crop of the ramp: its share of the area, its ratio, mirrored or not."""
    train = build(data, loader, batch_size=32, image_size=32, seed=2).train
    images = torch.cat([images for _ in range(15) for images, _ in train]).float()
    middle = images[:, :, 4:28, 4:28]  # off the borders, where filters are cut off
    across = (middle[:, 0, :, -1] - middle[:, 0, :, 0]).mean(1) / 23 * 32 / 256
    down = (middle[:, 1, -1] - middle[:, 1, 0]).mean(1) / 23 * 32 / 256
    return (across.abs() * down), across.abs() / down, across < 0


@both
def test_crops_and_flips_are_torchvisions(tmp_path, loader):
    """Red is the column and green the row, so a crop tells what it was cut from.

    480 crops. 20,000 of torchvision's own cover .477 of the area on average (standard deviation
    .233; a crop that does not fit is drawn again, which favours small ones), and the logarithm
    of their ratio has mean 0 and standard deviation .160. Bounds are five standard errors wide.
    """
    ramp = np.zeros((256, 256, 3), dtype=np.uint8)
    ramp[..., 0] = np.arange(256)
    ramp[..., 1] = np.arange(256)[:, None]
    (tmp_path / "a").mkdir()
    for number in range(32):
        Image.fromarray(ramp).save(tmp_path / "a" / f"{number:02d}.png")
    share, ratio, mirrored = crops(tmp_path, loader)
    assert len(share) == 480
    assert abs(share.mean() - 0.477) < 0.054
    assert 0.07 < share.min() < 0.12
    assert 0.9 < share.max() < 1.02
    assert abs(ratio.log().mean()) < 0.04
    assert ratio.min() > 0.7 and ratio.max() < 1.42
    assert abs(ratio.log().std() - 0.16) < 0.025
    assert abs(mirrored.float().mean() - 0.5) < 0.12


@both
@pytest.mark.parametrize("kind", ["text", "header", "cut", "empty", "gif"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_unreadable_image_is_named(tmp_path, loader, kind, split):
    write_folder(tmp_path, {"train": {"a": 6}, "val": {"a": 6}}, noise_image)
    bad = tmp_path / split / "a" / "003.jpg"
    content = bad.read_bytes()
    if kind == "gif":
        if loader == "torch":
            pytest.skip("PIL reads GIF")
        noise_image(3).save(bad, format="GIF")
    else:
        parts = {"text": b"no image at all", "header": content[:200], "cut": content[:900]}
        bad.write_bytes(parts.get(kind, b""))
    loaders = build(tmp_path, loader, batch_size=3)
    with pytest.raises(UserError, match=r"^\S+003\.jpg: not an image that \w+ can read.*\Z"):
        for _ in range(3):
            list(getattr(loaders, split))
    # The other split is not touched by it.
    other = loaders.val if split == "train" else loaders.train
    assert len(list(other)) == 2


@both
def test_file_that_vanished_is_named(tmp_path, loader):
    write_folder(tmp_path, {"train": {"a": 4}, "val": {"a": 4}})
    loaders = build(tmp_path, loader)
    (tmp_path / "val" / "a" / "002.jpg").unlink()
    with pytest.raises(UserError, match=r"002\.jpg"):
        list(loaders.val)


@every
def test_batch_larger_than_the_training_set(plain, loader):
    with pytest.raises(UserError, match="--batch-size 23: larger .* which has 22 images$"):
        build(plain, loader, batch_size=23)
    with pytest.raises(UserError, match="--batch-size 12: .* 11 images for each of 2 ranks"):
        build(plain, loader, batch_size=12, num_shards=2)


@every
def test_more_ranks_than_validation_images(plain, loader):
    with pytest.raises(UserError, match="11 validation images for 12 ranks"):
        build(plain, loader, batch_size=1, num_shards=12)


def test_unknown_loader(plain):
    with pytest.raises(UserError, match="--loader dalli: .* taken are dali and torch"):
        build(plain, "dalli")


def test_dali_that_is_not_installed(plain, monkeypatch):
    monkeypatch.setattr(sprout_fast.data, "has_dali", lambda: False)
    assert default_loader() == "torch"
    with pytest.raises(UserError, match="pip install nvidia-dali-cuda130"):
        build(plain, "dali")


@every
def test_folder_that_serves_both(tmp_path, loader):
    write_folder(tmp_path, {".": {"a": 4, "b": 3}})
    loaders = build(tmp_path, loader, batch_size=2)
    assert "serves both" in loaders.description
    assert Counter(order(loaders.val)) == Counter(range(7))
    assert len(order(loaders.train)) == 6
