"""Tars of image folders: read as the folder that they unpack to."""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers.image_files import encode, noise_image, plain_image, write_folder, write_tar

from sprout_fast.data import build_loaders, scan
from sprout_fast.errors import UserError

COUNTS = {"train": {"a": 5, "b": 4, "c": 3}, "test": {"a": 2, "c": 3}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "set"
    return write_folder(root, COUNTS, lambda number: noise_image(number, (32, 32)))


def members(root, prefix=""):
    """The files under ``root``, in an order that does not help, as in a tar."""
    files = [path for path in root.rglob("*") if path.is_file()]
    files.sort(key=lambda path: hashlib.md5(str(path).encode()).digest())
    return {f"{prefix}{path.relative_to(root).as_posix()}": path.read_bytes() for path in files}


def assert_same(first, second):
    assert first.classes == second.classes
    for one, other in ((first.train, second.train), (first.val, second.val)):
        assert np.array_equal(one.decode(), other.decode())
        assert np.array_equal(one.labels, other.labels)


@pytest.mark.parametrize("prefix", ["", "./", "cifar/", "./some/where/"])
def test_a_tar_is_read_as_the_folder_in_it(tmp_path, folder, prefix):
    tar = write_tar(tmp_path / "set.tar", members(folder, prefix))
    assert_same(scan(tar), scan(folder))


@pytest.mark.parametrize("kind", [gzip, bz2, lzma])
@pytest.mark.parametrize("name", ["set.tar", "set.tgz"])
def test_a_compressed_tar_is_recognized_by_its_content(tmp_path, folder, kind, name):
    tar = write_tar(tmp_path / "plain", members(folder))
    packed = tmp_path / name
    packed.write_bytes(kind.compress(tar.read_bytes()))
    assert_same(scan(packed), scan(folder))
    # A new version of the file is uncompressed anew.
    image = encode(plain_image(0))
    write_tar(tar, {"train/z/0.jpg": image, "val/z/0.jpg": image})
    packed.write_bytes(kind.compress(tar.read_bytes()))
    assert scan(packed).classes == ["z"]


def test_hard_links_and_files_that_come_twice(tmp_path, folder):
    """The result is the same as after unpacking."""
    content = members(folder)
    tar = tmp_path / "set.tar"
    with tarfile.open(tar, "w") as archive:
        for name, data in [("train/a/000.jpg", b"old"), *content.items()]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("train/a/linked.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "train/b/006.jpg"
        archive.addfile(link)
    (tmp_path / "unpacked").mkdir()
    for name, data in (content | {"train/a/linked.jpg": content["train/b/006.jpg"]}).items():
        (tmp_path / "unpacked" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "unpacked" / name).write_bytes(data)
    assert_same(scan(tar), scan(tmp_path / "unpacked"))


def test_other_files_in_a_tar(tmp_path, folder):
    """Texts, macOS's ._ twins, images outside of classes, deeper folders: as in a folder."""
    more = {
        "README.txt": b"hello",
        "logo.png": b"",
        "train/a/notes.txt": b"",
        "train/logo.jpg": b"",
        "train/a/deeper/0.JPG": encode(noise_image(50, (32, 32))),
        "train/a-b/0.jpg": encode(noise_image(51, (32, 32))),
        "train/a/._000.jpg": b"?",
        "__MACOSX/train/a/._000.jpg": b"?",
    }
    tar = write_tar(tmp_path / "set.tar", members(folder) | more)
    unpacked = tmp_path / "unpacked"
    for name, content in (members(folder) | more).items():
        (unpacked / name).parent.mkdir(parents=True, exist_ok=True)
        (unpacked / name).write_bytes(content)
    assert_same(scan(tar), scan(unpacked))
    assert len(scan(tar).train) == 14


def test_tar_without_splits_serves_as_both(tmp_path):
    root = write_folder(tmp_path / "set", {".": {"a": 2, "b": 1}})
    listing = scan(write_tar(tmp_path / "set.tar", members(root)))
    assert listing.train is listing.val and len(listing.train) == 3
    assert "serves as both" in listing.layout


def test_a_subset_reads_its_own_images(tmp_path, folder):
    split = scan(write_tar(tmp_path / "set.tar", members(folder))).train
    chosen = np.array([1, 7, 11])
    part = split.subset(chosen)
    assert np.array_equal(part.decode(), split.decode()[chosen])
    assert part.labels.tolist() == split.labels[chosen].tolist()
    assert [part.name(i) for i in range(3)] == [split.name(i) for i in chosen]


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


def damaged_xz(tar):
    tar.write_bytes(lzma.compress(tar.read_bytes())[:200] + bytes(1000))
    return tar


def other_file(tar):
    tar.write_bytes(b"hello there " * 100)
    return tar


DAMAGES = [cut_in_a_file, cut_in_a_header, cut_between_files, cut_gzip, damaged_xz, other_file]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_tar(tmp_path, folder, damage):
    tar = damage(write_tar(tmp_path / "set.tar", members(folder)))
    with pytest.raises(UserError, match=r"set\.tar: not a readable tar file"):
        scan(tar)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_shard(tmp_path, damage):
    samples = {}
    for number in range(4):
        samples[f"{number}.jpg"] = encode(plain_image(number))
        samples[f"{number}.cls"] = b"0"
    write_tar(tmp_path / "val-0.tar", samples)
    damage(write_tar(tmp_path / "train-0.tar", samples))
    with pytest.raises(UserError, match=r"train-0\.tar: not a readable tar file"):
        scan(tmp_path)


@pytest.mark.parametrize("kind", [gzip, bz2, lzma])
def test_a_tar_that_uncompresses_without_end_is_refused(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("sprout_fast.data.readers.tar._ALWAYS_ALLOWED", 1 << 20)
    for name in ("set.tar", "train-0.tar", "val-0.tar"):
        (tmp_path / name).write_bytes(kind.compress(bytes(8 << 20)))
    for data, name in ((tmp_path / "set.tar", "set.tar"), (tmp_path, "train-0.tar")):
        with pytest.raises(UserError) as caught:
            scan(data)
        said = str(caught.value)
        assert f"{name}: not a readable tar file (" in said and "\n" not in said
        assert "bytes uncompress to more than 1,048,576" in said
        if os.path.isfile(data):
            held = (file.stat().st_size for file in _temporary_files())
            assert max(held) < 1 << 20


def _temporary_files():
    from sprout_fast.data.readers.tar import _temporary_folder

    return [path for path in Path(_temporary_folder().name).iterdir() if path.is_file()]


def test_a_bomb_of_hundreds_of_megabytes_ends_at_a_hundredfold(tmp_path):
    with gzip.open(tmp_path / "set.tgz", "wb", compresslevel=1) as file:
        for _ in range(300):
            file.write(bytes(1 << 20))
    with pytest.raises(UserError, match=r"set\.tgz: .* uncompress to more than [0-9,]+, so it"):
        scan(tmp_path / "set.tgz")


def test_sparse_files_are_refused(tmp_path, folder):
    """One of a terabyte would be read into memory."""
    (tmp_path / "train" / "a").mkdir(parents=True)
    with open(tmp_path / "train" / "a" / "0.jpg", "wb") as file:
        file.truncate(1 << 40)
    subprocess.run(["tar", "-S", "-cf", "set.tar", "train"], cwd=tmp_path, check=True)
    with pytest.raises(UserError, match=r"set\.tar: .*train/a/0\.jpg is a sparse file"):
        scan(tmp_path / "set.tar")


@pytest.mark.parametrize(
    ("held", "says"),
    [
        (["some-folder/data_batch_1"], "no images; expected train/<class>/<image>"),
        (["train/a/0.png", "train/b/0.png"], "has train/ but no val/ or test/"),
        (["test/a/0.png"], "has test/ but no train/"),
        (["train/a/0.png", "val/z/0.png"], "class z in val has no training images"),
        (["train/0.png", "val/a/0.png"], "set.tar/train: no images"),
    ],
)
def test_tar_of_another_layout(tmp_path, held, says):
    buffer = io.BytesIO()
    plain_image(0).save(buffer, format="PNG")
    tar = write_tar(tmp_path / "set.tar", dict.fromkeys(held, buffer.getvalue()))
    with pytest.raises(UserError, match=says):
        scan(tar)


@pytest.mark.parametrize("loader", ["dali", "torch", "memory"])
def test_every_loader_reads_tars(tmp_path, folder, loader):
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    tar = write_tar(tmp_path / "set.tar", members(folder))
    options = {"loader": loader, "batch_size": 5, "image_size": 32, "workers": 1}
    for one, other in zip(
        build_loaders(tar, **options).val, build_loaders(folder, **options).val, strict=True
    ):
        assert one[0].equal(other[0]) and one[1].equal(other[1])
