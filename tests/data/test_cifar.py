"""CIFAR-10 and CIFAR-100 in torchvision's format."""

import hashlib
import pickle
import tarfile

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from sprout_fast.data import balanced_subset, build_loaders, scan
from sprout_fast.errors import UserError


class Synthetic:
    """CIFAR's own files with a few made-up images, and what torchvision expects of them."""

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
            self.images[split] = images.transpose(0, 2, 3, 1)
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
    listing = scan(tmp_path / kind.base_folder if itself else tmp_path)
    assert len(listing.classes) == len(set(listing.classes)) == (10 if kind is CIFAR10 else 100)
    for split, name in ((listing.train, "train"), (listing.val, "test")):
        assert np.array_equal(split.decode(), made.images[name])
        assert split.labels.tolist() == made.labels[name]
    assert kind.__name__ in listing.layout


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
def test_the_archive_that_torchvision_downloads(tmp_path, make_cifar, kind, mode):
    (tmp_path / "made").mkdir()
    made = make_cifar(tmp_path / "made", kind)
    archive = tmp_path / "cifar.tar.gz"
    with tarfile.open(archive, mode) as tar:
        tar.add(tmp_path / "made" / kind.base_folder, kind.base_folder)
    listing = scan(archive)
    assert np.array_equal(listing.val.decode(), made.images["test"])
    assert listing.train.labels.tolist() == made.labels["train"]


def test_an_archive_writes_nothing_outside_its_folder(tmp_path, make_cifar):
    (tmp_path / "made").mkdir()
    make_cifar(tmp_path / "made", CIFAR10)
    archive = tmp_path / "cifar.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(tmp_path / "made" / CIFAR10.base_folder, CIFAR10.base_folder)
        tar.addfile(tarfile.TarInfo(str(tmp_path / "outside")))
    assert b"/outside" in archive.read_bytes()
    assert len(scan(archive).val) == 20
    assert not (tmp_path / "outside").exists()


def test_limited(tmp_path, make_cifar):
    made = make_cifar(tmp_path, CIFAR10)
    loaders = build_loaders(tmp_path, loader="memory", batch_size=30, limit_train=30, seed=1)
    assert "30 of 100 training and 20 validation images" in loaders.description
    chosen = balanced_subset(np.array(made.labels["train"]), 30, seed=1)
    images, labels = next(iter(loaders.train))
    assert labels.bincount().tolist() == [3] * 10
    assert sorted(labels.tolist()) == sorted(made.labels["train"][i] for i in chosen)


def test_other_loaders_resize_the_images(tmp_path, make_cifar):
    made = make_cifar(tmp_path, CIFAR10)
    loaders = build_loaders(tmp_path, loader="torch", batch_size=20, image_size=28, workers=0)
    images, labels = next(iter(loaders.val))
    assert images.shape == (20, 3, 28, 28) and labels.tolist() == made.labels["test"]
    # The short side becomes 32, so what is left is the center crop.
    center = torch.from_numpy(made.images["test"])[:, 2:30, 2:30].permute(0, 3, 1, 2)
    assert torch.equal(images, center)


def test_damaged_file(tmp_path, make_cifar):
    make_cifar(tmp_path, CIFAR10)
    file = tmp_path / CIFAR10.base_folder / "data_batch_3"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="cifar-10-batches-py: cannot be read as CIFAR10") as error:
        scan(tmp_path)
    assert "\n" not in str(error.value)


def test_two_sets_in_one_folder(tmp_path, make_cifar):
    for kind in (CIFAR10, CIFAR100):
        make_cifar(tmp_path, kind)
    with pytest.raises(UserError, match="holds both cifar-10-batches-py and cifar-100-python"):
        scan(tmp_path)
    assert len(scan(tmp_path / "cifar-100-python").classes) == 100
