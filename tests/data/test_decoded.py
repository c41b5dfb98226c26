"""Small images read into memory: what is taken, by which decoder, and what is refused."""

import gzip
import hashlib
import io
import os
import pickle
import tarfile
from collections import Counter

import numpy as np
import pytest
import torch
from helpers.image_files import colour, encode, noise_image, plain_image, write_folder, write_tar
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

import sprout_fast.data.decode
from sprout_fast.data import build_memory_loaders, default_loader
from sprout_fast.data.readers.decoded import balanced_subset, read_decoded
from sprout_fast.data.readers.folder import scan_folder
from sprout_fast.errors import UserError

COUNTS = {"train": {"a": 5, "b": 4, "c": 3}, "test": {"a": 2, "c": 3}}


@pytest.fixture(
    params=[
        pytest.param(
            "dali",
            marks=pytest.mark.skipif(default_loader() != "dali", reason="DALI is not installed"),
        ),
        "pil",
    ]
)
def decoder(request, monkeypatch):
    if request.param == "pil":
        monkeypatch.setattr(sprout_fast.data.decode, "has_dali", lambda: False)
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "set"
    return write_folder(root, COUNTS, lambda number: noise_image(number, (32, 32)))


def members(root, prefix=""):
    """The files under `root`, in no order that would help, as a tar's."""
    files = [path for path in root.rglob("*") if path.is_file()]
    files.sort(key=lambda path: hashlib.md5(str(path).encode()).digest())
    return {f"{prefix}{path.relative_to(root).as_posix()}": path.read_bytes() for path in files}


def assert_same(first, second):
    assert first.classes == second.classes
    for split in ("train", "val"):
        assert torch.equal(getattr(first, split).images, getattr(second, split).images)
        assert torch.equal(getattr(first, split).labels, getattr(second, split).labels)


def test_a_folder_is_read_as_pil_reads_it(folder, decoder):
    decoded = read_decoded(folder)
    listing = scan_folder(folder)
    assert decoded.classes == ["a", "b", "c"]
    for split, files in ((decoded.train, listing.train), (decoded.val, listing.val)):
        expected = np.stack([np.asarray(Image.open(path)) for path in files.paths])
        assert split.images.dtype == torch.uint8
        assert np.array_equal(split.images.numpy(), expected)
        assert split.labels.dtype == torch.int64
        assert split.labels.tolist() == files.labels
    assert decoded.val.labels.tolist() == [0, 0, 2, 2, 2]


@pytest.mark.parametrize("prefix", ["", "./", "cifar/", "./some/where/"])
def test_a_tar_is_read_as_the_folder_in_it(tmp_path, folder, prefix):
    tar = write_tar(tmp_path / "set.tar", members(folder, prefix))
    assert_same(read_decoded(tar), read_decoded(folder))
    packed = tmp_path / "set.tgz"
    packed.write_bytes(gzip.compress(tar.read_bytes()))
    assert_same(read_decoded(packed), read_decoded(folder))


def test_what_a_tar_holds_besides(tmp_path, folder):
    """Other files, macOS's ._ twins, images outside classes, deeper folders: as in a folder."""
    more = {
        "README.txt": b"hello",
        "logo.png": b"",
        "train/a/notes.txt": b"",
        "train/logo.jpg": b"",
        "train/a/deeper/0.JPG": encode(noise_image(50, (32, 32))),
        "train/a-b/0.jpg": encode(noise_image(51, (32, 32))),
    }
    tar = write_tar(tmp_path / "set.tar", members(folder) | more | {"train/a/._000.jpg": b"?"})
    unpacked = tmp_path / "unpacked"
    for name, content in (members(folder) | more).items():
        (unpacked / name).parent.mkdir(parents=True, exist_ok=True)
        (unpacked / name).write_bytes(content)
    assert_same(read_decoded(tar), read_decoded(unpacked))
    assert len(read_decoded(tar).train) == 14


def test_folders_without_splits_serve_both(tmp_path):
    root = write_folder(tmp_path / "set", {".": {"a": 2, "b": 1}})
    for data in (root, write_tar(tmp_path / "set.tar", members(root))):
        decoded = read_decoded(data)
        assert len(decoded.train) == len(decoded.val) == 3
        assert "serves both" in decoded.layout


@pytest.mark.parametrize("kind", ["L", "CMYK", "RGBA", "P", "bmp", "gif"])
def test_any_kind_of_image_becomes_rgb(tmp_path, decoder, kind):
    """Also one that DALI does not take (GIF), beside others that it does."""
    folder = tmp_path / "a"
    folder.mkdir()
    plain_image(1).save(folder / "0.png")
    image = plain_image(7)
    formats = {"L": "JPEG", "CMYK": "JPEG", "RGBA": "PNG", "P": "PNG", "bmp": "BMP", "gif": "GIF"}
    image = image if kind in ("bmp", "gif") else image.convert(kind)
    image.save(folder / "1.jpg", format=formats[kind])
    first, second = read_decoded(tmp_path).train.images
    assert torch.equal(first[0, 0], torch.tensor(colour(1), dtype=torch.uint8))
    expected = torch.from_numpy(np.asarray(Image.open(folder / "1.jpg").convert("RGB")).copy())
    assert (second.int() - expected.int()).abs().max() <= 3  # CMYK is converted in two ways


class Synthetic:
    """CIFAR's own files with a few made-up images, and what torchvision is to expect of them."""

    def __init__(self, root, kind, train_files, num_classes, label_key, meta, names_key):
        random = np.random.default_rng(0)
        folder = root / kind.base_folder
        folder.mkdir()
        self.lists, self.images, self.labels = {}, {}, {}
        for split, names in (("train", train_files), ("test", [kind.test_list[0][0]])):
            images = random.integers(0, 256, (len(names) * 20, 3, 32, 32), dtype=np.uint8)
            labels = (np.arange(len(images)) * 7 % num_classes).tolist()
            for i, name in enumerate(names):
                part = slice(20 * i, 20 * i + 20)
                content = {"data": images[part].reshape(20, -1), label_key: labels[part]}
                (folder / name).write_bytes(pickle.dumps(content))
            self.lists[split] = [[name, self.md5(folder / name)] for name in names]
            self.images[split] = torch.from_numpy(images).permute(0, 2, 3, 1)
            self.labels[split] = labels
        names = [f"class{i}" for i in range(num_classes)]
        (folder / meta).write_bytes(pickle.dumps({names_key: names}))
        self.meta = {"filename": meta, "key": names_key, "md5": self.md5(folder / meta)}

    @staticmethod
    def md5(path):
        return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def make_cifar(monkeypatch):
    def make(root, kind):
        if kind is CIFAR10:
            names = [name for name, _ in CIFAR10.train_list]
            made = Synthetic(root, kind, names, 10, "labels", "batches.meta", "label_names")
        else:
            made = Synthetic(root, kind, ["train"], 100, "fine_labels", "meta", "fine_label_names")
        monkeypatch.setattr(kind, "train_list", made.lists["train"])
        monkeypatch.setattr(kind, "test_list", made.lists["test"])
        monkeypatch.setattr(kind, "meta", made.meta)
        return made

    return make


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
@pytest.mark.parametrize("itself", [True, False])
def test_torchvisions_format(tmp_path, make_cifar, kind, itself):
    made = make_cifar(tmp_path, kind)
    decoded = read_decoded(tmp_path / kind.base_folder if itself else tmp_path)
    assert len(decoded.classes) == len(set(decoded.classes)) == (10 if kind is CIFAR10 else 100)
    for split, name in ((decoded.train, "train"), (decoded.val, "test")):
        assert torch.equal(split.images, made.images[name])
        assert split.labels.tolist() == made.labels[name]
    assert kind.__name__ in decoded.layout


def test_torchvisions_format_limited(tmp_path, make_cifar):
    made = make_cifar(tmp_path, CIFAR10)
    decoded = read_decoded(tmp_path, limit_train=30, seed=1)
    chosen = balanced_subset(made.labels["train"], 30, seed=1)
    assert torch.equal(decoded.train.images, made.images["train"][chosen])
    assert decoded.train.labels.bincount().tolist() == [3] * 10
    assert len(decoded.val) == 20


def test_torchvisions_format_damaged(tmp_path, make_cifar):
    make_cifar(tmp_path, CIFAR10)
    file = tmp_path / CIFAR10.base_folder / "data_batch_3"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="cifar-10-batches-py: cannot be read as CIFAR10") as error:
        read_decoded(tmp_path)
    assert "\n" not in str(error.value)


def test_two_sets_in_one_folder(tmp_path, make_cifar):
    for kind in (CIFAR10, CIFAR100):
        make_cifar(tmp_path, kind)
    with pytest.raises(UserError, match="holds both cifar-10-batches-py and cifar-100-python"):
        read_decoded(tmp_path)
    assert len(read_decoded(tmp_path / "cifar-100-python").classes) == 100


def test_balanced_subset():
    labels = np.random.default_rng(0).permutation([0] * 50 + [1] * 50 + [2] * 7).tolist()
    subsets = {count: balanced_subset(labels, count, seed=4) for count in (2, 3, 20, 22, 70, 200)}
    for count, subset in subsets.items():
        assert subset == sorted(set(subset))
        assert len(subset) == min(count, 107)
    classes = {count: Counter(labels[i] for i in subset) for count, subset in subsets.items()}
    assert classes[3] == {0: 1, 1: 1, 2: 1}
    assert sorted(classes[20].values()) == [6, 7, 7]
    assert classes[22][2] == 7 and sorted(classes[22].values()) == [7, 7, 8]
    assert classes[70][2] == 7 and abs(classes[70][0] - classes[70][1]) == 1
    for small, large in ((2, 3), (3, 20), (20, 22), (22, 70)):
        assert set(subsets[small]) < set(subsets[large])
    assert balanced_subset(labels, 20, seed=4) == subsets[20] != balanced_subset(labels, 20, seed=5)


def test_left_out_images_are_not_decoded(tmp_path):
    write_folder(tmp_path, {"train": {"a": 6, "b": 6}, "val": {"a": 1}})
    files = scan_folder(tmp_path).train
    chosen = balanced_subset(files.labels, 4, seed=2)
    for index in set(range(12)) - set(chosen):
        with open(files.paths[index], "wb") as file:
            file.write(b"no image")
    decoded = read_decoded(tmp_path, limit_train=4, seed=2)
    assert decoded.train.labels.tolist() == [files.labels[i] for i in chosen] == [0, 0, 1, 1]
    with pytest.raises(UserError, match="no image|not an image"):
        read_decoded(tmp_path)


@pytest.mark.parametrize("at", ["train/b/006.jpg", "test/a/001.jpg"])
@pytest.mark.parametrize("packed", [True, False])
def test_another_size_is_named(tmp_path, decoder, folder, at, packed):
    content = members(folder) | {at: encode(plain_image(0, (48, 40)))}
    tar = write_tar(tmp_path / "set.tar", content)
    data = tar
    if not packed:
        data = tmp_path / "set"
        for name, image in content.items():
            (data / name).parent.mkdir(parents=True, exist_ok=True)
            (data / name).write_bytes(image)
    says = rf"^\S+{at}: is 48 x 40 pixels, \S+train/a/000.jpg is 32 x 32; taken are images of one"
    with pytest.raises(UserError, match=says):
        read_decoded(data)


@pytest.mark.parametrize("kind", ["text", "cut", "empty"])
def test_unreadable_image_is_named(tmp_path, decoder, folder, kind):
    at = "train/b/006.jpg"
    bad = {"text": b"no image at all", "cut": members(folder)[at][:700], "empty": b""}[kind]
    tar = write_tar(tmp_path / "set.tar", members(folder) | {at: bad})
    with pytest.raises(UserError, match=rf"^\S+set.tar/{at}: not an image that PIL can read.*\Z"):
        read_decoded(tar)


def test_file_that_cannot_be_read_is_named(tmp_path):
    write_folder(tmp_path, {"train": {"a": 2}, "val": {"a": 1}})
    (tmp_path / "train" / "a" / "001.jpg").unlink()
    (tmp_path / "train" / "a" / "001.jpg").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"001.jpg: cannot be read \(No such file"):
        read_decoded(tmp_path)


def cut_in_a_file(tar):
    with tarfile.open(tar) as archive:
        at = archive.getmembers()[-1].offset_data + 100
    os.truncate(tar, at)
    return tar


def cut_in_a_header(tar):
    with tarfile.open(tar) as archive:
        at = archive.getmembers()[-1].offset + 100
    os.truncate(tar, at)
    return tar


def cut_between_files(tar):
    with tarfile.open(tar) as archive:
        at = archive.getmembers()[-1].offset
    os.truncate(tar, at)
    return tar


def cut_gzip(tar):
    tar.write_bytes(gzip.compress(tar.read_bytes())[:-50])
    return tar


def other_file(tar):
    tar.write_bytes(b"hello there " * 100)
    return tar


@pytest.mark.parametrize(
    "damage", [cut_in_a_file, cut_in_a_header, cut_between_files, cut_gzip, other_file]
)
def test_what_is_no_whole_tar(tmp_path, folder, damage):
    tar = damage(write_tar(tmp_path / "set.tar", members(folder)))
    with pytest.raises(UserError, match=r"set\.tar: not a readable tar file"):
        read_decoded(tar)


@pytest.mark.parametrize(
    ("held", "says"),
    [
        (["cifar-10-batches-py/data_batch_1"], "no images; taken is a tar of train/.* unpacked"),
        (["train/a/0.png", "train/b/0.png"], "has train/ but no val/ or test/"),
        (["test/a/0.png"], "has test/ but no train/"),
        (["train/a/0.png", "val/z/0.png"], "class z in val has no training images"),
        (["train/0.png", "val/a/0.png"], "set.tar/train: no images"),
    ],
)
def test_tar_that_is_laid_out_otherwise(tmp_path, held, says):
    buffer = io.BytesIO()
    plain_image(0).save(buffer, format="PNG")
    tar = write_tar(tmp_path / "set.tar", dict.fromkeys(held, buffer.getvalue()))
    with pytest.raises(UserError, match=says):
        read_decoded(tar)


def test_no_such_data(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        read_decoded(tmp_path / "nowhere")


def test_limit_that_leaves_nothing(folder):
    with pytest.raises(UserError, match="--limit-train 0: takes 1 and more"):
        read_decoded(folder, limit_train=0)


def test_loaders_say_what_they_hold(folder):
    options = {"batch_size": 3, "device": torch.device("cpu"), "seed": 0}
    loaders = build_memory_loaders(folder, **options)
    assert loaders.description == (
        f"image folder {folder}: 12 training and 5 validation images of 3 classes, "
        "in memory, uint8, 0 MB"
    )
    limited = build_memory_loaders(folder, limit_train=6, **options)
    assert "6 training (--limit-train 6) and 5 validation images" in limited.description
    assert (limited.train.num_images, len(limited.train)) == (6, 2)
    with pytest.raises(UserError, match="--batch-size 7: larger than the training set"):
        build_memory_loaders(folder, limit_train=6, **options | {"batch_size": 7})
