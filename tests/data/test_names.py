"""Names: which are skipped, and that any other name works in every loader."""

import os
from pathlib import Path

import numpy as np
import pytest
from helpers.image_files import encode, plain_image, write_tar

from sprout_fast.data import build_loaders, has_dali, read_images, scan
from sprout_fast.data.names import is_hidden, printable

LOADERS = ["torch", "memory"] + ["dali"] * has_dali()
HIDDEN = [".ipynb_checkpoints", ".cache", ".Trash-0", "lost+found", "__MACOSX", "@eaDir"]
APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(200)
ODD = {
    "non-ASCII": "köter",
    "spaces": " two  words ",
    "newline": "a\nb",
    "tab and quotes": "a\t'b\"",
    "brackets": "[x]{y,z}*?",
    "percent": "100%d %s",
    "other script": "犬",
    "bytes that are not UTF-8": os.fsdecode(b"caf\xe9"),
    "long": "x" * 200,
}


def images(*names):
    """Return the files of a data set of classes a and b, with an image for each of ``names``."""
    return {
        f"{split}/{name}/{number}.JPEG": encode(plain_image(number))
        for split in ("train", "val")
        for name in names
        for number in range(3)
    }


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_hidden_folders_are_no_classes(tmp_path, name, kind):
    image = encode(plain_image(9))
    more = {f"train/{name}/0.JPEG": image, f"val/a/{name}/0.JPEG": image, f"{name}/0.JPEG": image}
    files = images("a", "b") | more
    data = (
        write(tmp_path / "set", files) if kind == "folder" else write_tar(tmp_path / "x.tar", files)
    )
    listing = scan(data)
    assert listing.classes == ["a", "b"]
    assert (len(listing.train), len(listing.val)) == (6, 6)


@pytest.mark.parametrize("name", HIDDEN)
def test_empty_hidden_folders_are_skipped(tmp_path, name):
    root = write(tmp_path, images("a", "b"))
    for split in ("train", "val"):
        (root / split / name).mkdir()
    assert scan(root).classes == ["a", "b"]


@pytest.mark.parametrize("kind", ["folder", "tar", "webdataset"])
def test_hidden_files_are_no_images(tmp_path, kind):
    """AppleDouble twins, which have the extension of an image, among them."""
    hidden = {"train/a/._0.JPEG": APPLE_DOUBLE, "val/b/.DS_Store": b"x", "val/b/.x.png": b"x"}
    if kind == "folder":
        listing = scan(write(tmp_path, images("a", "b") | hidden))
    elif kind == "tar":
        listing = scan(write_tar(tmp_path / "set.tar", hidden | images("a", "b")))
    else:
        for split in ("train", "val"):
            members = {"._0.jpg": APPLE_DOUBLE, ".DS_Store": b"x", "__MACOSX/._0.cls": b"x"}
            for number in range(6):
                members[f"{number}.jpg"] = encode(plain_image(number))
                members[f"{number}.cls"] = b"ab"[number % 2 :][:1]
            write_tar(tmp_path / f"{split}-0.tar", members)
            write_tar(tmp_path / f"._{split}-0.tar", {})
        listing = scan(tmp_path)
    assert listing.classes == ["a", "b"]
    assert (len(listing.train), len(listing.val)) == (6, 6)
    assert listing.train.decode().shape == (6, 32, 40, 3)


def test_the_data_set_itself_may_be_hidden(tmp_path):
    root = write(tmp_path / ".cache" / "lost+found", images("a", "b"))
    assert len(scan(root).train) == 6


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("name", ODD.values(), ids=ODD)
def test_any_path_works_in_every_loader(tmp_path, loader, name):
    """Use the name for the data set's folder, a class and a file at once."""
    files = {
        f"{split}/{folder}/{file}.JPEG": encode(plain_image(number))
        for split in ("train", "val")
        for number, (folder, file) in enumerate([(name, name), (name, "2"), ("z", name)])
    }
    data = write(tmp_path / name, files)
    size = None if loader == "memory" else 24
    workers = int(loader == "dali")
    loaders = build_loaders(data, loader=loader, batch_size=3, image_size=size, workers=workers)
    assert sorted(loaders.classes) == sorted([name, "z"])
    assert sum(len(labels) for _, labels in loaders.train) == 3
    assert sum(len(labels) for _, labels in loaders.val) == 3
    loaders.description.encode("utf-8")
    assert "\n" not in loaders.description


@pytest.mark.parametrize("name", ODD.values(), ids=ODD)
def test_any_name_works_in_tars(tmp_path, name):
    data = write_tar(tmp_path / f"{name}.tar", images(name, "z"))
    found = read_images(data, loader="torch", image_size=24, workers=0)
    assert sorted(found.classes) == sorted([name, "z"]) and len(found.labels) == 6


def test_worker_processes_read_names_that_are_not_utf8(tmp_path):
    data = write(tmp_path / os.fsdecode(b"caf\xe9"), images(os.fsdecode(b"\xff"), "köter"))
    assert len(read_images(data, loader="torch", image_size=24, workers=1).labels) == 6


def test_printable_names():
    assert printable(Path("train/köter 犬/0.jpg")) == "train/köter 犬/0.jpg"
    assert printable(os.fsdecode(b"\xff\n\t")) == r"\xff\n\t"


def test_names_that_are_not_hidden():
    assert not any(map(is_hidden, ["a", "n01440764", "lost", "_", "a.b", "-", "...".strip(".")]))
    assert np.all([is_hidden(name) for name in HIDDEN])
