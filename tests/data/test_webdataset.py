"""WebDataset tars: the same samples as a folder's, in the forms that people write."""

import os

import pytest
import torch
from helpers.image_files import encode, noise_image, numbers, plain_image, write_folder, write_tar

from sprout_fast.data import build_loaders, has_dali, scan
from sprout_fast.data.readers.webdataset import expand_braces
from sprout_fast.errors import UserError

NAMES = ("cat", "dog", "emu")


def samples(split, first, count, cls, make=plain_image):
    """Return tar members of images ``first``, ..., whose ``.cls`` holds ``cls(number)``."""
    members = {}
    for number in range(first, first + count):
        members[f"./{split}/{number:03d}.jpg"] = encode(make(number))
        members[f"./{split}/{number:03d}.cls"] = cls(number).encode()
    return members


def write_tars(root, cls=lambda number: str(number % 3), make=plain_image):
    """Write 25 training samples in three tars and 7 for validation in two."""
    for index, (first, count) in enumerate([(0, 10), (10, 10), (20, 5)]):
        write_tar(root / f"train-{index}.tar", samples("train", first, count, cls, make))
    for index, (first, count) in enumerate([(0, 4), (4, 3)]):
        write_tar(root / f"val-{index}.tar", samples("val", first, count, cls, make))
    return root


def build(data, **options):
    options = {"loader": "torch", "workers": 0} | options
    return build_loaders(data, **({"batch_size": 4, "image_size": 24, "seed": 0} | options))


def epoch(loader):
    return [
        pair
        for images, labels in loader
        for pair in zip(numbers(images), labels.tolist(), strict=True)
    ]


LOADERS = ["torch", "memory"]
if has_dali():
    LOADERS.append("dali")


@pytest.mark.parametrize("loader", LOADERS)
def test_each_sample_once_with_its_label(tmp_path, capfd, loader):
    options = {"loader": loader, "workers": 1, "image_size": None if loader == "memory" else 24}
    loaders = build(write_tars(tmp_path), **options)
    assert loaders.classes == ["0", "1", "2"]
    assert "25 training and 7 validation images of 3 classes" in loaders.description
    epochs = [epoch(loaders.train) for _ in range(3)]
    for pairs in epochs:
        assert len({number for number, _ in pairs}) == len(pairs) == 24
        assert all(label == number % 3 for number, label in pairs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] == epoch(build(tmp_path, **options).train)
    assert epochs[0] != epoch(build(tmp_path, seed=1, **options).train)
    for _ in range(2):
        assert epoch(loaders.val) == [(number, number % 3) for number in range(7)]
    assert capfd.readouterr().err == ""


def test_folders_of_tars_and_text_classes(tmp_path):
    def cls(number):
        return NAMES[number % 3] + "\n" * (number % 2)

    write_tar(tmp_path / "train" / "a.tar", samples("t", 0, 6, cls))
    write_tar(tmp_path / "val" / "b.tar", samples("v", 0, 5, cls))
    loaders = build(tmp_path)
    assert loaders.classes == list(NAMES)
    assert epoch(loaders.val) == [(number, number % 3) for number in range(5)]


def test_validation_is_a_folders(tmp_path):
    """The same files give the same pixels however they are stored."""
    write_folder(tmp_path / "files", {"train": {"a": 4}, "val": {"a": 7}}, noise_image)
    write_tars(tmp_path / "tars", cls=lambda number: "a", make=noise_image)
    folder, tars = (
        torch.cat([images for images, _ in build(tmp_path / kind).val])
        for kind in ("files", "tars")
    )
    assert torch.equal(folder, tars)


@pytest.mark.parametrize("shard_id", [0, 1])
def test_resumed_run_sees_the_same_images(tmp_path, shard_id):
    write_tars(tmp_path, make=noise_image)

    def train():
        return build(tmp_path, shard_id=shard_id, num_shards=2, batch_size=3).train

    whole, before, after = train(), train(), train()
    for _ in range(2):
        list(whole)
        list(before)
    after.load_state_dict(before.state_dict())
    for _ in range(2):
        for (images, labels), (expected, expected_labels) in zip(after, whole, strict=True):
            assert torch.equal(images, expected)
            assert torch.equal(labels, expected_labels)


def test_shards_share_the_samples(tmp_path):
    write_tars(tmp_path)
    shards = [build(tmp_path, shard_id=s, num_shards=2, batch_size=3) for s in range(2)]
    for _ in range(3):
        parts = [[number for number, _ in epoch(shard.train)] for shard in shards]
        assert [len(part) for part in parts] == [12, 12]
        assert len(set(sum(parts, []))) == 24
    seen = [number for shard in shards for number, _ in epoch(shard.val)]
    assert sorted(seen) == list(range(7))


def test_names_with_spaces_and_other_components(tmp_path):
    members = {
        "my image 1.png": encode(plain_image(3)),
        "my image 1.json": b"{}",
        "my image 1.cls": b"0",
        ".hidden": b"",
    }
    for split in ("train", "val"):
        write_tar(tmp_path / f"{split}-0.tar", members)
    assert epoch(build(tmp_path, batch_size=1).val) == [(3, 0)]


@pytest.mark.parametrize("content", [b"no image at all", encode(noise_image(1))[:500]])
def test_unreadable_image_is_named(tmp_path, content):
    write_tars(tmp_path)
    members = samples("val", 0, 4, lambda number: "0")
    members["./val/002.jpg"] = content
    write_tar(tmp_path / "val-0.tar", members)
    with pytest.raises(UserError, match=r"val-0\.tar/val/002\.jpg: (not an|damaged) image"):
        list(build(tmp_path).val)


@pytest.mark.parametrize(("missing", "said"), [("jpg", "no image"), ("cls", "no .cls or .json")])
def test_incomplete_sample_is_named(tmp_path, missing, said):
    write_tars(tmp_path)
    members = samples("train", 0, 3, str)
    del members[f"./train/001.{missing}"]
    write_tar(tmp_path / "train-0.tar", members)
    with pytest.raises(UserError, match=rf"train-0\.tar: sample \S*001 has {said}"):
        build(tmp_path)


def test_not_a_tar(tmp_path):
    write_tars(tmp_path)
    (tmp_path / "val-1.tar").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"val-1\.tar: not a readable tar file"):
        build(tmp_path)


def test_empty_tar(tmp_path):
    write_tars(tmp_path)
    write_tar(tmp_path / "val-1.tar", {})
    with pytest.raises(UserError, match=r"val-1\.tar: holds no samples"):
        build(tmp_path)


def test_val_tars_missing(tmp_path):
    write_tar(tmp_path / "train-0.tar", samples("t", 0, 3, str))
    with pytest.raises(UserError, match="no val tars"):
        build(tmp_path)


def test_val_class_that_train_lacks(tmp_path):
    write_tar(tmp_path / "train-0.tar", samples("t", 0, 5, lambda number: str(number % 2)))
    write_tar(tmp_path / "val-0.tar", samples("v", 0, 5, lambda number: "7"))
    with pytest.raises(UserError, match="class 7 in val"):
        build(tmp_path)


def pair(number, image="jpg", label="cls", key="s{}", content=None):
    """Return the members of one sample."""
    text = str(number % 3).encode() if content is None else content
    key = key.format(number)
    return {f"{key}.{image}": encode(plain_image(number)), f"{key}.{label}": text}


def written(tmp_path, *samples, name="{}-0.tar", mode="w"):
    """Write the samples as the training and as the validation tar; return the listing."""
    members = {k: v for sample in samples for k, v in sample.items()}
    for split in ("train", "val"):
        write_tar(tmp_path / name.format(split), members, mode)
    return scan(tmp_path)


def held(listing):
    """Return number and label of each validation image."""
    images = torch.from_numpy(listing.val.decode()).permute(0, 3, 1, 2)
    return list(zip(numbers(images), listing.val.labels.tolist(), strict=True))


THREE = [(0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize(
    "form",
    [
        {"image": "JPEG"},
        {"image": "JPG"},
        {"image": "jpeg"},
        {"label": "CLS"},
        {"image": "image.jpg"},  # KEY.image.jpg with KEY.cls
        {"key": "shard0/n01/s{}"},
        {"key": "./s{}"},
        {"key": "photo.{}"},  # only the part after the first dot differs
        {"key": "s{}.v1.2"},
        {"key": "my photo {}"},
    ],
)
def test_names_of_members(tmp_path, form):
    assert held(written(tmp_path, *(pair(number, **form) for number in range(3)))) == THREE


@pytest.mark.parametrize(
    "content",
    ["{}\r\n", " {} ", "\ufeff{}", "0{}", '{{"label": {}}}', '{{"cls": {}, "x": [1]}}', "{}"],
)
def test_contents_of_labels(tmp_path, content):
    label = "json" if "{{" in content else "cls"
    listing = written(
        tmp_path, *(pair(n, label=label, content=content.format(n).encode()) for n in range(3))
    )
    assert listing.classes == ["0", "1", "2"] and held(listing) == THREE


def test_json_of_texts_and_beside_cls(tmp_path):
    texts = [
        pair(n, label="json", content=b'{"class": "%s"}' % NAMES[n].encode()) for n in range(3)
    ]
    listing = written(tmp_path, *texts)
    assert listing.classes == list(NAMES) and held(listing) == THREE
    both = [pair(n) | {f"s{n}.json": b'{"label": 7}', f"s{n}.txt": b"a cat"} for n in range(3)]
    assert held(written(tmp_path, *both)) == THREE


def test_members_that_are_not_grouped(tmp_path):
    """Members in the order of a tar that was made without ``--sort=name``."""
    samples = [pair(number) for number in range(3)]
    images = [{k: v for k, v in one.items() if k.endswith("jpg")} for one in samples]
    labels = [{k: v for k, v in one.items() if k.endswith("cls")} for one in reversed(samples)]
    assert held(written(tmp_path, *images, *labels)) == THREE


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        (["0", "1", "-1"], "labels from -1 to 1"),
        (["1", "2", "3"], "labels from 1 to 3"),
        (["0", "1", "1440764"], "labels from 0 to 1440764, of which 3 occur"),
        (["0", "1", "1000000000"], "expected class numbers 0 to K - 1"),
        (["0", "1", ""], "s2.cls: empty label"),
    ],
)
def test_labels_are_checked(tmp_path, contents, says):
    with pytest.raises(UserError, match=says):
        written(tmp_path, *(pair(n, content=c.encode()) for n, c in enumerate(contents)))


@pytest.mark.parametrize("content", [b"{}", b"{", b"[1]", b'{"label": true}', b'{"label": 0.5}'])
def test_json_without_a_class_is_named(tmp_path, content):
    with pytest.raises(UserError, match=r"train-0\.tar/s0\.json: (no class in it|not JSON)"):
        written(tmp_path, pair(0, label="json", content=content))


def test_sample_of_two_images_is_named(tmp_path):
    sample = {"k.left.jpg": b"", "k.right.jpg": b"", "k.cls": b"0"}
    with pytest.raises(UserError, match="sample k has no one image and label; it holds left.jpg"):
        written(tmp_path, sample)


def test_a_set_of_few_shards_may_lack_some_classes(tmp_path):
    listing = written(tmp_path, *(pair(n, content=b"%d" % n) for n in (0, 1, 3)))
    assert listing.classes == ["0", "1", "2", "3"]


@pytest.mark.parametrize("name", ["{}-0.tar.gz", "{}-0.tgz", "{}-0.tar"])
def test_gzip_shards(tmp_path, name):
    assert held(written(tmp_path, *map(pair, range(3)), name=name, mode="w:gz")) == THREE


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("train-{}.tar", "val-{}.tar"),
        ("imagenet1k-train-{}.tar", "imagenet1k-validation-{}.tar"),
        ("imagenet-train-{}.tar", "imagenet-val-{}.tar"),
        ("train/{}.tar", "val/{}.tar"),
        ("train/any-{}.tar", "validation/any-{}.tar"),
    ],
)
def test_names_of_shards(tmp_path, train, val):
    for number in range(2):
        write_tar(tmp_path / train.format(number), pair(0) | pair(1) | pair(2))
    write_tar(tmp_path / val.format(0), pair(0) | pair(1) | pair(2))
    write_tar(tmp_path / ("._" + os.path.basename(val.format(0))), {})
    listing = scan(tmp_path)
    assert (len(listing.train), len(listing.val)) == (6, 3) and held(listing) == THREE


def test_braces_list_the_shards(tmp_path):
    for number in range(12):
        write_tar(tmp_path / f"train-{number:06d}.tar", pair(number))
    write_tar(tmp_path / "val-0.tar", pair(0) | pair(1) | pair(2))
    listing = scan(f"{tmp_path}/{{train-{{000001..000010}},val-0}}.tar")
    assert (len(listing.train), len(listing.val)) == (10, 3)
    listed = ",".join(f"train-{number:06d}" for number in range(12)) + "," * 300
    listing = scan(f"{tmp_path}/{{{listed}val-0}}.tar")  # longer than a file name may be
    assert (len(listing.train), len(listing.val)) == (12, 3)
    with pytest.raises(UserError, match="no val tars"):
        scan(f"{tmp_path}/train-{{000000..000011}}.tar")
    with pytest.raises(UserError, match="train-000012.tar: cannot be read"):
        scan(f"{tmp_path}/{{train-{{000011..000012}},val-0}}.tar")
    for pattern in ("{train-{0..3}.tar", "{0..999999999}.tar", "{0..999}{0..999}.tar"):
        with pytest.raises(UserError, match="not closed|more than 100,000"):
            expand_braces(pattern)


def test_tars_beside_an_image_folder_are_not_taken_for_shards(tmp_path):
    """Such as the downloads that the folder was unpacked from."""
    write_folder(tmp_path, {"train": {"a": 2}, "val": {"a": 1}})
    for name in ("ILSVRC2012_img_train.tar", "training.tar", "train.tar"):
        write_tar(tmp_path / name, {"x": b""})
    assert scan(tmp_path).layout.startswith("image folder")


@pytest.mark.parametrize("text", ["", "v1.2 3\n", "garbage\n", "v1.2 1\nJPG\n", "v1.1 x\n\n"])
def test_index_that_is_none_is_ignored(tmp_path, text):
    (tmp_path / "train-0.idx").write_text(text)
    listing = written(tmp_path, *map(pair, range(3)))
    os.utime(tmp_path / "train-0.idx", (2e9, 2e9))
    assert held(listing) == held(scan(tmp_path)) == THREE


def test_index_of_another_tar(tmp_path):
    listing = written(tmp_path, *map(pair, range(3)))
    index = tmp_path / "val-0.idx"
    places = [
        f"jpg {offset} {size} s{number}.jpg"
        for number, (offset, size) in enumerate(listing.val.places)
    ]
    index.write_text("\n".join(["v1.2 3", *places, ""]))
    os.utime(index, (2e9, 2e9))
    assert held(scan(tmp_path)) == THREE
    index.write_text(f"v1.2 1\njpg {listing.val.places[0, 0]} 7 s0.jpg\n")
    os.utime(index, (1, 1))  # older than the tar: of an earlier version
    assert held(scan(tmp_path)) == THREE
    os.utime(index, (2e9, 2e9))
    with pytest.raises(UserError, match="val-0.idx: not the index of val-0.tar; delete it"):
        scan(tmp_path)


def test_order_of_many_tars_moves_through_them(tmp_path):
    """Images of a moving window of tars, all once, so that reading is mostly sequential."""
    import numpy as np

    from sprout_fast.data.names import Names
    from sprout_fast.data.readers.tar import TarSplit

    tars, each = 40, 1000
    n = tars * each
    split = TarSplit(
        labels=np.zeros(n, np.int64),
        tars=tuple(map(str, range(tars))),
        files=tuple(map(str, range(tars))),
        tar=np.repeat(np.arange(tars), each),
        places=np.zeros((n, 2), np.int64),
        names=Names.pack("x" * n),
        row=np.arange(n),
    )
    order = split.shuffled(np.random.default_rng(0))
    assert np.array_equal(np.sort(order), np.arange(n))
    used = split.tar[order].reshape(-1, each)
    assert all(len(set(part)) <= 12 for part in used.tolist())
    assert np.median([len(set(part)) for part in used.tolist()]) >= 4
    other = split.shuffled(np.random.default_rng(1))
    assert (order != other).mean() > 0.9
