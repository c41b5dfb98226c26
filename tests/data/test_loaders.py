"""All loaders: the contents and order of their batches, and what they refuse.

The memory loader's own: test_memory_loader.py. Pixels of all kinds of files: test_decode.py.
"""

import io
import threading
import time
from collections import Counter

import numpy as np
import pytest
import torch
from helpers.image_files import noise_image, numbers, write_folder
from PIL import Image

from sprout_fast.data import LoadingOptions, build_loaders, default_loader
from sprout_fast.data.listing import FileSplit
from sprout_fast.data.loaders.augmentation import training_view, validation_view
from sprout_fast.errors import UserError

CPU = torch.device("cpu")
needs_dali = pytest.mark.skipif(default_loader() != "dali", reason="DALI is not installed")
BOTH = [pytest.param("dali", marks=needs_dali), "torch"]
both = pytest.mark.parametrize("loader", BOTH)
every = pytest.mark.parametrize("loader", [*BOTH, "memory"])


def build(data, loader, **options):
    size = None if loader == "memory" else 24
    workers = 1 if loader == "dali" else 0
    options = {"batch_size": 4, "image_size": size, "seed": 0, "workers": workers} | options
    return build_loaders(data, loader=loader, **options)


def epoch(loader):
    """Return the batches of one epoch as (numbers of the images, labels)."""
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
    # The two that are dropped differ between epochs.
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
    """Return the state as read from a checkpoint."""
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
    """Order, crops and flips after a resume are those of an uninterrupted run."""
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
def test_an_interrupted_epoch_restarts(noise, loader):
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
def test_two_iterators_at_a_time_do_not_mix(noise, loader):
    """The traceback of an interrupted epoch, for example, keeps its iterator alive."""
    train = build(noise, loader, batch_size=2).train
    whole = list(build(noise, loader, batch_size=2).train)
    iterator = iter(train)
    first = next(iterator)
    assert_same(list(train), whole)
    assert_same([first, *iterator], whole)
    assert train.state_dict()["epoch"] == 1


@every
@pytest.mark.parametrize("done", [0, 1, 2])
def test_resuming_within_an_epoch_gives_its_other_batches(noise, loader, done):
    whole = build(noise, loader, batch_size=3).train
    epochs = [list(whole) for _ in range(3)]

    before = build(noise, loader, batch_size=3).train
    list(before)
    iterator = iter(before)
    for _ in range(done + 1):
        next(iterator)  # one more than was trained on
    state = saved_and_loaded(before.state_dict(batches=done))
    after = build(noise, loader, batch_size=3).train
    after.load_state_dict(state)
    assert (after.images_done, after.batches_left(), len(after)) == (3 * done, 3 - done, 3)
    assert after.state_dict() == state
    assert_same(list(after), epochs[1][done:])
    assert (after.images_done, after.batches_left()) == (0, 3)
    assert_same(list(after), epochs[2])


@every
@pytest.mark.parametrize("ranks", [(1, 4, 2, 3), (2, 3, 1, 4), (2, 2, 3, 1)])
def test_another_number_of_ranks_gets_the_images_that_the_epoch_has_not_seen(plain, loader, ranks):
    ranks, size, new_ranks, new_size = ranks

    def shards(count, batch_size):
        options = {"batch_size": batch_size, "num_shards": count}
        return [build(plain, loader, shard_id=i, **options).train for i in range(count)]

    old = shards(ranks, size)
    seen = []
    for shard in old:
        iterator = iter(shard)
        seen += [number for _ in range(2) for number in numbers(next(iterator)[0])]
    (state,) = {tuple(shard.state_dict(batches=2).items()) for shard in old}
    new = shards(new_ranks, new_size)
    for shard in new:
        shard.load_state_dict(dict(state))
    left = (22 - 2 * ranks * size) // new_ranks // new_size
    assert [shard.batches_left() for shard in new] == [left] * new_ranks
    rest = [order(shard) for shard in new]
    assert [len(part) for part in rest] == [left * new_size] * new_ranks
    seen += sum(rest, [])
    assert len(set(seen)) == len(seen)
    # The next epoch has all images again, in the order of an uninterrupted run.
    whole = build(plain, loader, batch_size=22).train
    list(whole)
    expected = order(whole)
    for rank, shard in enumerate(new):
        mine = expected[rank::new_ranks]
        assert order(shard) == mine[: 22 // new_ranks // new_size * new_size]


@every
@pytest.mark.parametrize("change", [{"seed": 1}, {"limit_train": 10}])
def test_an_epoch_of_another_order_starts_again(noise, loader, change):
    before = build(noise, loader).train
    list(before)
    state = before.state_dict(batches=1)
    after = build(noise, loader, **change).train
    after.load_state_dict(state)
    assert after.state_dict()["epoch"] == 1
    assert after.images_done == 0 and after.batches_left() == len(after)


@every
def test_an_epoch_of_which_nothing_is_left_gives_way_to_the_next(noise, loader):
    train = build(noise, loader).train
    train.load_state_dict(train.state_dict(batches=len(train)))
    assert train.batches_left() == 0 and list(train) == []
    assert train.state_dict()["epoch"] == 1 and train.batches_left() == len(train)


def test_another_loader_resumes_in_the_same_order(plain):
    state = build(plain, "memory").train.state_dict(batches=2)
    train = build(plain, "torch").train
    whole = order(train)
    train.load_state_dict(state)
    assert order(train) == whole[8:]


@every
def test_earlier_batches_keep_their_memory(noise, loader):
    train = build(noise, loader, batch_size=2).train
    held, copies = [], []
    for _ in range(6):
        for images, labels in train:
            held.append((images, labels))
            copies.append((images.clone(), labels.clone()))
    assert_same(held, copies)


@both
def test_loading_options_do_not_change_the_images(noise, loader):
    expected = list(build(noise, loader, workers=1).train)
    for change in (
        {"prefetch": 1, "read_threads": 1, "read_ahead": 0},
        {"prefetch": 5, "read_threads": 7, "read_ahead": 9, "decode": "cpu"},
    ):
        train = build(noise, loader, workers=1, loading=LoadingOptions(**change)).train
        assert_same(list(train), expected)
        assert_same([next(iter(train))], [next(iter(train))])


@needs_dali
def test_loading_options_reach_dali(noise, monkeypatch):
    """In the graph of a machine with a GPU, which this one cannot run."""
    from nvidia.dali import fn

    from sprout_fast.data.dali import views

    given = {}
    monkeypatch.setattr(
        fn.decoders,
        "image_slice",
        lambda encoded, decode=fn.decoders.image_slice, **options: (
            given.update(options) or decode(encoded, **options)
        ),
    )
    numbers = {"hw_decoder_load": 0.8, "device_memory_padding": 7, "host_memory_padding": 9}
    settings = {"batch_size": 2, "num_threads": 3, "device_id": 0}
    pipeline = views(lambda: (), 24, LoadingOptions(prefetch=6, **numbers), **settings)
    assert pipeline.prefetch_queue_depth == 6 and pipeline.num_threads == 3
    assert given.items() >= (numbers | {"device": "mixed"}).items()
    given.clear()
    views(lambda: (), 24, LoadingOptions(decode="cpu", **numbers), **settings)
    assert given["device"] == "cpu" and not given.keys() & numbers.keys()


@needs_dali
def test_as_many_threads_read_as_asked_for(noise, monkeypatch):
    seen, real = set(), FileSplit.read

    def read(self, index):
        seen.add(threading.current_thread())
        time.sleep(0.05)
        return real(self, index)

    monkeypatch.setattr(FileSplit, "read", read)
    loading = LoadingOptions(read_threads=5, read_ahead=4)
    list(build(noise, "dali", batch_size=2, workers=1, loading=loading).train)
    assert len(seen) == 5


@pytest.mark.parametrize(
    ("loader", "options", "says"),
    [
        (
            "torch",
            {"decode": "gpu"},
            "decode gpu: loader dali decodes on a GPU, .*got torch on cpu",
        ),
        ("dali", {"decode": "gpu"}, "decode gpu: .*got dali on cpu"),
        ("torch", {"decode": "cuda"}, "decode cuda: expected one of auto, cpu, gpu"),
        ("torch", {"prefetch": 0}, "prefetch 0: expected a number of at least 1"),
        ("torch", {"read_threads": 0}, "read_threads 0: expected"),
        ("torch", {"read_ahead": -1}, "read_ahead -1: expected"),
        ("torch", {"hw_decoder_load": 1.5}, "hw_decoder_load 1.5: expected a number from 0 to 1"),
    ],
)
def test_loading_options_out_of_range(plain, loader, options, says):
    with pytest.raises(UserError, match=says):
        build(plain, loader, loading=LoadingOptions(**options))


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
@pytest.mark.parametrize(("device_id", "mixed", "device"), [(None, 0, "cpu"), (0, 1, "gpu")])
def test_one_definition_serves_cpu_and_gpu(device_id, mixed, device):
    """A graph with a GPU can be defined, but not run, on any machine."""
    from nvidia.dali import Pipeline, fn, types

    from sprout_fast.data.dali import gpu_decoder, view

    decoder = gpu_decoder(LoadingOptions(hw_decoder_load=0.9)) if mixed else {"device": "cpu"}

    with Pipeline(batch_size=1, num_threads=1, device_id=device_id):
        inputs = [fn.external_source(dtype=types.UINT8, ndim=1)]
        inputs += [fn.external_source(dtype=types.INT32, ndim=1) for _ in range(4)]
        flip = fn.external_source(dtype=types.INT32, ndim=0)
        images = view(*inputs, flip, image_size=64, decoder=decoder)
        assert (images.device, images.gpu().device) == (device, "gpu")


@needs_dali
def test_training_images_agree(noise):
    """Crops and flips are drawn once for both; at the borders of a crop the filters differ."""
    size = {"image_size": 32, "batch_size": 11}
    dali, other = (build(noise, name, **size).train for name in ("dali", "torch"))
    for first, second in zip(dali, other, strict=True):
        assert torch.equal(first[1], second[1])
        difference = (first[0].int() - second[0].int()).abs().float()
        assert difference.mean((1, 2, 3)).max() < 1
        assert difference[:, :, 4:-4, 4:-4].max() <= 2


@both
def test_images_depend_on_neither_batch_size_nor_ranks(noise, loader):
    """Nor on the number of workers."""

    def images(**options):
        train = build(noise, loader, **options).train
        return {image.numpy().tobytes() for batch, _ in train for image in batch}

    whole = images(batch_size=11)
    assert len(whole) == 11
    assert images(batch_size=5) < whole
    assert images(batch_size=11, workers=2) == whole
    ranks = [images(batch_size=5, num_shards=2, shard_id=rank) for rank in range(2)]
    assert len(ranks[0] | ranks[1]) == 10 and ranks[0] | ranks[1] < whole


def test_views_are_torchvisions():
    """Images of all shapes; a training crop that never fits is the center, as in torchvision."""
    from torchvision.transforms import v2

    random = np.random.default_rng(0)
    for height, width in [(375, 500), (33, 57), (224, 224), (1, 300), (300, 2)]:
        for _ in range(20):
            (top, left), (h, w), size, crop, *_ = training_view(height, width, 24, random)
            assert 0 <= top <= height - h and 0 <= left <= width - w and h > 0 and w > 0
            assert size == (24, 24) and crop == (0, 0)
        index = torch.arange(height * width, dtype=torch.float64).view(1, height, width)
        for side in (24, 57):
            view = validation_view(height, width, side)
            resized = v2.Resize(round(side * 256 / 224))(index)
            assert tuple(resized.shape[1:]) == view.size
            cropped = v2.CenterCrop(side)(resized)
            row, column = view.crop
            assert torch.equal(cropped, resized[:, row : row + side, column : column + side])


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
def test_file_that_vanished_is_named(tmp_path, loader):
    write_folder(tmp_path, {"train": {"a": 4}, "val": {"a": 4}})
    loaders = build(tmp_path, loader)
    (tmp_path / "val" / "a" / "002.jpg").unlink()
    with pytest.raises(UserError, match=r"002\.jpg"):
        list(loaders.val)


@every
def test_batch_larger_than_the_training_set(plain, loader):
    with pytest.raises(UserError, match=r"batch_size 23: larger .* \(22 images\)$"):
        build(plain, loader, batch_size=23)
    with pytest.raises(UserError, match=r"batch_size 12: .* \(11 images per rank"):
        build(plain, loader, batch_size=12, num_shards=2)


@every
def test_more_ranks_than_validation_images(plain, loader):
    with pytest.raises(UserError, match="11 validation images, fewer than 12 ranks"):
        build(plain, loader, batch_size=1, num_shards=12)


def test_unknown_loader(plain):
    with pytest.raises(UserError, match="loader: got 'dalli', expected .* did you mean dali"):
        build(plain, "dalli")


def test_dali_that_is_not_installed(plain, monkeypatch):
    for module in ("base", "dali"):
        monkeypatch.setattr(f"sprout_fast.data.loaders.{module}.has_dali", lambda: False)
    assert default_loader() == "torch"
    with pytest.raises(UserError, match="pip install nvidia-dali-cuda130"):
        build(plain, "dali")


@every
def test_folder_that_serves_both(tmp_path, loader):
    write_folder(tmp_path, {".": {"a": 4, "b": 3}})
    loaders = build(tmp_path, loader, batch_size=2)
    assert "serves as both" in loaders.description
    assert Counter(order(loaders.val)) == Counter(range(7))
    assert len(order(loaders.train)) == 6
